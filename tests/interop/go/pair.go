// nats.go as the responder or the requester of a pair. See run_pair.py for what the two say to each other.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	count    = 200
	jobCount = 300
)

// takeAll returns the messages that wait in a synchronous subscription.
func takeAll(sub *nats.Subscription) []*nats.Msg {
	messages := []*nats.Msg{}
	for {
		msg, err := sub.NextMsg(time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) {
			return messages
		}
		messages = append(messages, must(msg, err))
	}
}

func payloads(messages []*nats.Msg) []string {
	list := []string{}
	for _, msg := range messages {
		list = append(list, string(msg.Data))
	}
	return list
}

func numbered(subject string, i int) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Data: fmt.Append(nil, i)}
	if i%2 == 1 {
		msg.Header = nats.Header{"Number": {fmt.Sprint(i)}}
	}
	return msg
}

func publishNumbers(conn *nats.Conn, subject string) {
	for i := range count {
		err := conn.PublishMsg(numbered(subject, i))
		check(err == nil, "publish: %v", err)
	}
}

// judgeNumbers returns what ask.count answers.
func judgeNumbers(messages []*nats.Msg) string {
	for i, msg := range messages {
		wanted := numbered(msg.Subject, i)
		sameHeader := reflect.DeepEqual(msg.Header, wanted.Header) || len(msg.Header)+len(wanted.Header) == 0
		if !bytes.Equal(msg.Data, wanted.Data) || !sameHeader {
			return fmt.Sprintf("message %d is %q with %v", i, msg.Data, msg.Header)
		}
	}
	return fmt.Sprintf("%d in order", len(messages))
}

func respond(msg *nats.Msg, payload string) {
	err := msg.Respond([]byte(payload))
	check(err == nil, "respond: %v", err)
}

func respondToAll(conn *nats.Conn) {
	scenario = "responder"
	sink := must(conn.SubscribeSync("sink"))
	work := must(conn.QueueSubscribeSync("work", "workers"))
	asked := must(conn.SubscribeSync("ask.*"))
	flush(conn)
	fmt.Println("ready")
	for {
		msg := must(asked.NextMsg(4 * wait))
		switch strings.TrimPrefix(msg.Subject, "ask.") {
		case "upper":
			respond(msg, strings.ToUpper(string(msg.Data)))
		case "headers":
			msg.Header["Answer"] = []string{"1", "2"}
			err := msg.RespondMsg(&nats.Msg{Data: msg.Data, Header: msg.Header})
			check(err == nil, "respond with headers: %v", err)
		case "send":
			publishNumbers(conn, "source")
			respond(msg, "")
		case "count":
			respond(msg, judgeNumbers(takeAll(sink)))
		case "share":
			respond(msg, strings.Join(payloads(takeAll(work)), " "))
		case "leave":
			respond(msg, "bye")
			closed := make(chan struct{})
			conn.SetClosedHandler(func(*nats.Conn) { close(closed) })
			check(conn.Drain() == nil, "drain")
			<-closed
			return
		}
	}
}

func ask(conn *nats.Conn, what, payload string) string {
	return string(must(conn.Request("ask."+what, []byte(payload), wait)).Data)
}

func pairRequestReply(conn *nats.Conn) {
	for i := range 100 {
		checkEqual(ask(conn, "upper", fmt.Sprintf("one-%d", i)), fmt.Sprintf("ONE-%d", i), "reply")
	}
}

func pairRequestsInFlight(conn *nats.Conn) {
	var requests sync.WaitGroup
	for i := range 100 {
		requests.Go(func() {
			reply := ask(conn, "upper", fmt.Sprintf("many-%d", i))
			checkEqual(reply, fmt.Sprintf("MANY-%d", i), "reply to one of many requests")
		})
	}
	requests.Wait()
}

func pairLargePayload(conn *nats.Conn) {
	payload := make([]byte, payloadMax)
	for i := range payload {
		payload[i] = byte('a' + i%26)
	}
	reply := ask(conn, "upper", string(payload))
	check(reply == strings.ToUpper(string(payload)), "1 MiB came back changed, %d bytes", len(reply))
}

func pairHeaders(conn *nats.Conn) {
	sent := nats.Header{"Alpha": {"one", "two"}, "alpha": {"three"}, "Empty": {""}, "Text": {"größer: 1, 2"}}
	request := &nats.Msg{Subject: "ask.headers", Header: sent, Data: []byte("body")}
	reply := must(conn.RequestMsg(request, wait))
	wanted := nats.Header{"Answer": {"1", "2"}}
	for name, values := range sent {
		wanted[name] = values
	}
	checkEqual(reply.Header, wanted, "headers of the reply")
	checkEqual(string(reply.Data), "body", "payload after headers")
}

func pairPublish(conn *nats.Conn) {
	publishNumbers(conn, "sink")
	checkEqual(ask(conn, "count", ""), fmt.Sprintf("%d in order", count), "what the responder received")
}

func pairSubscribe(conn *nats.Conn) {
	source := must(conn.SubscribeSync("source"))
	checkEqual(ask(conn, "send", ""), "", "reply without payload")
	checkEqual(judgeNumbers(takeAll(source)), fmt.Sprintf("%d in order", count), "what was received")
}

func pairQueueGroup(conn *nats.Conn) {
	work := must(conn.QueueSubscribeSync("work", "workers"))
	flush(conn)
	wanted := numbers(jobCount)
	for _, job := range wanted {
		publish(conn, "work", job)
	}
	theirs := strings.Fields(ask(conn, "share", ""))
	ours := payloads(takeAll(work))
	check(len(theirs) > 0 && len(ours) > 0, "%d and %d messages: each member gets a share", len(theirs), len(ours))
	sort.Strings(wanted)
	checkEqual(sorted(append(theirs, ours...)), wanted, "each message reaches one member")
}

func pairNoResponders(conn *nats.Conn) {
	checkNoResponders(conn, "nobody")
	_, err := conn.Request("ask.silent", nil, quiet)
	check(errors.Is(err, nats.ErrTimeout), "request that nobody answers: %v, wanted a timeout", err)
}

func pairResponderLeaves(conn *nats.Conn) {
	checkEqual(ask(conn, "leave", ""), "bye", "last reply")
	for end := time.Now().Add(wait); ; {
		_, err := conn.Request("ask.upper", nil, quiet)
		if errors.Is(err, nats.ErrNoResponders) {
			return
		}
		check(time.Now().Before(end), "the responder is still there: %v", err)
	}
}

func requestAll(conn *nats.Conn) {
	for _, s := range []struct {
		name string
		run  func(conn *nats.Conn)
	}{
		{"request_reply", pairRequestReply},
		{"requests_in_flight", pairRequestsInFlight},
		{"large_payload", pairLargePayload},
		{"headers", pairHeaders},
		{"publish", pairPublish},
		{"subscribe", pairSubscribe},
		{"queue_group", pairQueueGroup},
		{"no_responders", pairNoResponders},
		{"responder_leaves", pairResponderLeaves},
	} {
		scenario = s.name
		s.run(conn)
		fmt.Println("ok", s.name)
	}
}

func runPair(role string) {
	conn := connect()
	switch role {
	case "responder":
		respondToAll(conn)
	case "requester":
		requestAll(conn)
	default:
		fmt.Fprintf(os.Stderr, "unknown role %s\n", role)
		os.Exit(2)
	}
	conn.Close()
}
