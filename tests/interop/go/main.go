// The interop scenarios with nats.go. See run_client.py for how it is run, run_pair.py for the roles.
//
//	scenarios [responder|requester]
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	wait       = 10 * time.Second
	quiet      = 200 * time.Millisecond
	payloadMax = 1024 * 1024
)

var (
	scenario string // the one that runs, for the failure line
	input    = bufio.NewReader(os.Stdin)
)

func check(ok bool, format string, args ...any) {
	if !ok {
		fmt.Fprintf(os.Stderr, "fail %s: %s\n", scenario, fmt.Sprintf(format, args...))
		os.Exit(1)
	}
}

func checkEqual(got, wanted any, what string) {
	check(reflect.DeepEqual(got, wanted), "%s: got %v, wanted %v", what, got, wanted)
}

func must[T any](value T, err error) T {
	check(err == nil, "%v", err)
	return value
}

func connect(options ...nats.Option) *nats.Conn {
	options = append(options, nats.ReconnectWait(100*time.Millisecond), nats.MaxReconnects(100))
	return must(nats.Connect(os.Getenv("NATS_URL"), options...))
}

// collector keeps the messages of one subscription, and waits for them.
type collector struct {
	lock     sync.Mutex
	delay    time.Duration
	messages []*nats.Msg
}

func (c *collector) keep(msg *nats.Msg) {
	time.Sleep(c.delay)
	c.lock.Lock()
	defer c.lock.Unlock()
	c.messages = append(c.messages, msg)
}

func (c *collector) list(pick func(*nats.Msg) string) []string {
	c.lock.Lock()
	defer c.lock.Unlock()
	picked := []string{}
	for _, msg := range c.messages {
		picked = append(picked, pick(msg))
	}
	return picked
}

func (c *collector) payloads() []string {
	return c.list(func(msg *nats.Msg) string { return string(msg.Data) })
}

func (c *collector) subjects() []string {
	return c.list(func(msg *nats.Msg) string { return msg.Subject })
}

func (c *collector) waitFor(count int) {
	for end := time.Now().Add(wait); len(c.payloads()) < count; time.Sleep(5 * time.Millisecond) {
		check(time.Now().Before(end), "%d of %d messages after %v", len(c.payloads()), count, wait)
	}
}

func flush(conns ...*nats.Conn) {
	for _, conn := range conns {
		err := conn.FlushTimeout(wait)
		check(err == nil, "flush: %v", err)
	}
}

// settle returns when all that was published before has reached its subscribers, surplus included.
func settle(conns ...*nats.Conn) {
	flush(conns...)
	time.Sleep(quiet)
}

func publish(conn *nats.Conn, subject, payload string) {
	err := conn.Publish(subject, []byte(payload))
	check(err == nil, "publish: %v", err)
}

func numbers(count int) []string {
	list := []string{}
	for i := range count {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

func sorted(list []string) []string {
	list = append([]string{}, list...)
	sort.Strings(list)
	return list
}

func checkNoResponders(conn *nats.Conn, subject string) {
	_, err := conn.Request(subject, nil, wait)
	check(errors.Is(err, nats.ErrNoResponders), "request to %s: %v, wanted no responders", subject, err)
}

func requestReply(near, far *nats.Conn) {
	must(far.Subscribe("rr.upper", func(msg *nats.Msg) { msg.Respond(bytes.ToUpper(msg.Data)) }))
	must(far.Subscribe("rr.silent", func(*nats.Msg) {}))
	flush(far)
	for i := range 100 {
		reply := must(near.Request("rr.upper", fmt.Appendf(nil, "one-%d", i), wait))
		checkEqual(string(reply.Data), fmt.Sprintf("ONE-%d", i), "reply to a request alone")
	}
	var requests sync.WaitGroup
	for i := range 100 {
		requests.Go(func() {
			reply := must(near.Request("rr.upper", fmt.Appendf(nil, "many-%d", i), wait))
			checkEqual(string(reply.Data), fmt.Sprintf("MANY-%d", i), "reply to one of many requests")
		})
	}
	requests.Wait()
	_, err := near.Request("rr.silent", nil, quiet)
	check(errors.Is(err, nats.ErrTimeout), "request nobody answers: %v, wanted a timeout", err)
}

func noResponders(near, far *nats.Conn) {
	checkNoResponders(near, "nr.nobody")
	sub := must(far.Subscribe("nr.service", func(*nats.Msg) {}))
	flush(far)
	check(sub.Unsubscribe() == nil, "unsubscribe")
	flush(far)
	checkNoResponders(near, "nr.service")
}

func headers(near, far *nats.Conn) {
	sent := nats.Header{"Alpha": {"one", "two"}, "alpha": {"three"}, "Empty": {""}, "Text": {"größer: 1, 2"}}
	must(far.Subscribe("hd.request", func(msg *nats.Msg) {
		checkEqual(msg.Header, sent, "headers of the request")
		msg.RespondMsg(&nats.Msg{Data: msg.Data, Header: nats.Header{"Answer": {"1", "2", "3"}}})
	}))
	flush(far)
	reply := must(near.RequestMsg(&nats.Msg{Subject: "hd.request", Header: sent, Data: []byte("body")}, wait))
	checkEqual(reply.Header, nats.Header{"Answer": {"1", "2", "3"}}, "headers of the reply")
	checkEqual(string(reply.Data), "body", "payload after headers")

	plain := &collector{}
	must(far.Subscribe("hd.plain", plain.keep))
	flush(far)
	err := near.PublishMsg(&nats.Msg{Subject: "hd.plain", Header: nats.Header{"Only": {"header"}}})
	check(err == nil, "publish of headers without payload: %v", err)
	publish(near, "hd.plain", "no header")
	plain.waitFor(2)
	checkEqual(plain.payloads(), []string{"", "no header"}, "payloads published")
	only := plain.list(func(msg *nats.Msg) string { return msg.Header.Get("Only") })
	checkEqual(only, []string{"header", ""}, "headers published")
}

func wildcards(near, far *nats.Conn) {
	patterns := map[string][]string{
		"wc.a.b": {"wc.a.b"},
		"wc.*.b": {"wc.a.b", "wc.c.b"},
		"wc.a.*": {"wc.a.b", "wc.a.d"},
		"*.a.b":  {"wc.a.b"},
		"wc.>":   {"wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e"},
		"wc.a.>": {"wc.a.b", "wc.a.d", "wc.a.b.e"},
		"wc.*":   {"wc.a"},
	}
	collectors := map[string]*collector{}
	for pattern := range patterns {
		collectors[pattern] = &collector{}
		must(far.Subscribe(pattern, collectors[pattern].keep))
	}
	flush(far)
	for _, subject := range []string{"wc", "wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e", "wcx.a.b.c"} {
		publish(near, subject, "")
	}
	settle(near, far)
	for pattern, wanted := range patterns {
		checkEqual(collectors[pattern].subjects(), wanted, "subjects that reached "+pattern)
	}
}

func queueGroups(near, far *nats.Conn) {
	members := []*collector{{}, {}, {}}
	auditors, plain := &collector{}, &collector{}
	must(near.QueueSubscribe("qg.*", "workers", members[0].keep))
	must(far.QueueSubscribe("qg.*", "workers", members[1].keep))
	must(far.QueueSubscribe("qg.job", "workers", members[2].keep))
	must(far.QueueSubscribe("qg.job", "auditors", auditors.keep))
	must(far.Subscribe("qg.job", plain.keep))
	flush(near, far)
	for _, payload := range numbers(300) {
		publish(near, "qg.job", payload)
	}
	plain.waitFor(300)
	settle(near, far)
	got := []string{}
	for _, member := range members {
		check(len(member.payloads()) > 0, "every member of the group gets a share")
		got = append(got, member.payloads()...)
	}
	checkEqual(sorted(got), sorted(numbers(300)), "each message reaches one member of the group")
	checkEqual(auditors.payloads(), numbers(300), "each message reaches the other group too")
	checkEqual(plain.payloads(), numbers(300), "each message reaches the plain subscription")
}

func autoUnsubscribe(near, far *nats.Conn) {
	first, second := &collector{}, &collector{}
	check(must(far.Subscribe("au.first", first.keep)).AutoUnsubscribe(5) == nil, "auto-unsubscribe")
	later := must(far.Subscribe("au.second", second.keep))
	flush(far)
	publish(near, "au.second", "0")
	publish(near, "au.second", "1")
	second.waitFor(2)
	check(later.AutoUnsubscribe(3) == nil, "auto-unsubscribe")
	flush(far)
	for i, payload := range numbers(10) {
		publish(near, "au.first", payload)
		publish(near, "au.second", fmt.Sprint(i+2))
	}
	settle(near, far)
	checkEqual(first.payloads(), numbers(5), "five messages, then no more")
	checkEqual(second.payloads(), numbers(3), "messages before the limit was set count")
	checkNoResponders(near, "au.first")
	checkNoResponders(near, "au.second")
}

func drainSubscription(near, far *nats.Conn) {
	slow := &collector{delay: 5 * time.Millisecond}
	sub := must(far.Subscribe("ds.work", slow.keep))
	flush(far)
	for _, payload := range numbers(50) {
		publish(near, "ds.work", payload)
	}
	flush(near)
	check(sub.Drain() == nil, "drain")
	slow.waitFor(50)
	checkEqual(slow.payloads(), numbers(50), "messages handled by the end of a drain")
	checkNoResponders(near, "ds.work")
}

func drainConnection(near, far *nats.Conn) {
	closed := make(chan struct{})
	worker := connect(nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	answers := &collector{}
	must(worker.Subscribe("dc.work", func(msg *nats.Msg) {
		time.Sleep(5 * time.Millisecond)
		worker.Publish("dc.answer", msg.Data)
	}))
	must(far.Subscribe("dc.answer", answers.keep))
	flush(worker, far)
	for _, payload := range numbers(50) {
		publish(near, "dc.work", payload)
	}
	flush(near)
	check(worker.Drain() == nil, "drain")
	select {
	case <-closed:
	case <-time.After(wait):
		check(false, "the drained connection did not close")
	}
	answers.waitFor(50)
	checkEqual(answers.payloads(), numbers(50), "answers published during the drain")
	checkNoResponders(near, "dc.work")
}

func largePayload(near, far *nats.Conn) {
	payload := make([]byte, payloadMax)
	for i := range payload {
		payload[i] = byte(i * 7 % 251)
	}
	must(far.Subscribe("lp.echo", func(msg *nats.Msg) { msg.Respond(msg.Data) }))
	flush(far)
	for range 3 {
		reply := must(near.Request("lp.echo", payload, wait))
		check(bytes.Equal(reply.Data, payload), "1 MiB came back changed, %d bytes", len(reply.Data))
	}
}

func maxPayload(near, _ *nats.Conn) {
	checkEqual(near.MaxPayload(), int64(payloadMax), "max_payload of INFO")
	err := near.Publish("mp.over", make([]byte, payloadMax+1))
	check(errors.Is(err, nats.ErrMaxPayload), "payload over the limit: %v", err)
	flush(near)
}

func reconnect(near, _ *nats.Conn) {
	lost, back := make(chan struct{}, 10), make(chan struct{}, 10)
	client := connect(nats.DisconnectErrHandler(func(*nats.Conn, error) { lost <- struct{}{} }),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	plain, wild, member := &collector{}, &collector{}, &collector{}
	must(client.Subscribe("rc.plain", plain.keep))
	must(client.Subscribe("rc.*", wild.keep))
	must(client.QueueSubscribe("rc.plain", "workers", member.keep))
	flush(client)

	fmt.Println("restart")
	checkEqual(must(input.ReadString('\n')), "restarted\n", "answer to restart")
	for _, event := range []chan struct{}{lost, back} {
		select {
		case <-event:
		case <-time.After(wait):
			check(false, "the client did not come back")
		}
	}
	flush(client)
	for end := time.Now().Add(wait); !near.IsConnected(); time.Sleep(10 * time.Millisecond) {
		check(time.Now().Before(end), "the first client did not come back")
	}
	publish(near, "rc.plain", "again")
	settle(near, client)
	for name, c := range map[string]*collector{"plain": plain, "wildcard": wild, "queue": member} {
		checkEqual(c.payloads(), []string{"again"}, name+" subscription after the restart")
	}
	client.Close()
}

func main() {
	if len(os.Args) > 1 {
		runPair(os.Args[1])
		return
	}
	near, far := connect(), connect()
	for _, s := range []struct {
		name string
		run  func(near, far *nats.Conn)
	}{
		{"request_reply", requestReply},
		{"no_responders", noResponders},
		{"headers", headers},
		{"wildcards", wildcards},
		{"queue_groups", queueGroups},
		{"auto_unsubscribe", autoUnsubscribe},
		{"drain_subscription", drainSubscription},
		{"drain_connection", drainConnection},
		{"large_payload", largePayload},
		{"max_payload", maxPayload},
		{"reconnect", reconnect},
	} {
		scenario = s.name
		s.run(near, far)
		fmt.Println("ok", s.name)
	}
	near.Close()
	far.Close()
}
