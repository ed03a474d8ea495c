// The interop scenarios with nats.java. See run_client.py for how it is run.
//
// nats.java refuses header values outside ASCII, so those are left to the other clients.

import io.nats.client.Connection;
import io.nats.client.ConnectionListener.Events;
import io.nats.client.ErrorListener;
import io.nats.client.JetStreamStatusException;
import io.nats.client.Message;
import io.nats.client.MessageHandler;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.Subscription;
import io.nats.client.impl.Headers;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;

public final class Scenarios {
    private static final Duration WAIT = Duration.ofSeconds(10);
    private static final Duration QUIET = Duration.ofMillis(200);
    private static final int PAYLOAD_MAX = 1024 * 1024;

    private interface Scenario {
        void run(Connection near, Connection far) throws Exception;
    }

    // What a connection tells about itself.
    private static final class Watch {
        final CountDownLatch lost = new CountDownLatch(1);
        final CountDownLatch back = new CountDownLatch(1);
        final CountDownLatch closed = new CountDownLatch(1);

        void note(Events event) {
            switch (event) {
                case DISCONNECTED -> lost.countDown();
                case RESUBSCRIBED -> back.countDown();
                case CLOSED -> closed.countDown();
                default -> {}
            }
        }
    }

    private static void check(boolean condition, String text) {
        if (!condition) {
            throw new AssertionError(text);
        }
    }

    private static void checkEqual(Object got, Object wanted, String text) {
        check(Objects.equals(got, wanted), text + ": got " + got + ", wanted " + wanted);
    }

    private static Connection connect(Watch watch) throws Exception {
        return Nats.connect(Options.builder()
                .server(System.getenv("NATS_URL"))
                .connectionTimeout(WAIT)
                .reconnectWait(Duration.ofMillis(100))
                .maxReconnects(100)
                .reportNoResponders()
                .errorListener(new ErrorListener() {}) // no log of the refused attempts
                .connectionListener((connection, event) -> watch.note(event))
                .build());
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(Message message) {
        return new String(message.getData(), StandardCharsets.UTF_8);
    }

    private static List<String> numbers(int count) {
        return IntStream.range(0, count).mapToObj(Integer::toString).toList();
    }

    private static void publishAll(Connection connection, String subject, List<String> payloads) {
        payloads.forEach(payload -> connection.publish(subject, bytes(payload)));
    }

    private static Message next(Subscription sub) throws Exception {
        Message message = sub.nextMessage(WAIT);
        check(message != null, "no message on " + sub.getSubject());
        return message;
    }

    // Every message that waits.
    private static List<Message> takeAll(Subscription sub) throws Exception {
        List<Message> messages = new ArrayList<>();
        for (Message m = sub.nextMessage(QUIET); m != null; m = sub.nextMessage(QUIET)) {
            messages.add(m);
        }
        return messages;
    }

    private static List<String> payloads(List<Message> messages) {
        return messages.stream().map(Scenarios::text).toList();
    }

    private static CompletableFuture<Message> request(Connection connection, String subject, String payload) {
        return connection.requestWithTimeout(subject, bytes(payload), WAIT);
    }

    private static void checkNoResponders(Connection connection, String subject) throws Exception {
        try {
            request(connection, subject, "").get();
        } catch (ExecutionException error) {
            check(error.getCause() instanceof JetStreamStatusException, subject + ": " + error.getCause());
            int status = ((JetStreamStatusException) error.getCause()).getStatus().getCode();
            checkEqual(status, 503, "status of a request to " + subject);
            return;
        }
        check(false, "request to " + subject + " must end with no responders");
    }

    private static void flush(Connection... connections) throws Exception {
        for (Connection connection : connections) {
            connection.flush(WAIT);
        }
    }

    private static void serve(Connection connection, String subject, MessageHandler handler) {
        connection.createDispatcher().subscribe(subject, handler);
    }

    private static void requestReply(Connection near, Connection far) throws Exception {
        serve(far, "rr.upper", m -> far.publish(m.getReplyTo(), bytes(text(m).toUpperCase())));
        serve(far, "rr.silent", m -> {});
        flush(far);
        for (String i : numbers(100)) {
            checkEqual(text(request(near, "rr.upper", "one-" + i).get()), "ONE-" + i, "reply");
        }
        List<CompletableFuture<Message>> requests = new ArrayList<>();
        for (String i : numbers(100)) {
            requests.add(request(near, "rr.upper", "many-" + i));
        }
        for (int i = 0; i < 100; i++) {
            checkEqual(text(requests.get(i).get()), "MANY-" + i, "reply to one of many requests");
        }
        try {
            near.requestWithTimeout("rr.silent", bytes(""), QUIET).get();
            check(false, "a request nobody answers must time out");
        } catch (CancellationException timeout) {
            return; // this is how nats.java says it
        }
    }

    private static void noResponders(Connection near, Connection far) throws Exception {
        checkNoResponders(near, "nr.nobody");
        Subscription service = far.subscribe("nr.service");
        flush(far);
        service.unsubscribe();
        flush(far);
        checkNoResponders(near, "nr.service");
    }

    private static void headers(Connection near, Connection far) throws Exception {
        Headers sent = new Headers().add("Alpha", "one", "two").add("alpha", "three").add("Empty", "");
        Headers answer = new Headers().add("Answer", "1", "2", "3");
        Subscription seen = far.subscribe("hd.*");
        serve(far, "hd.request", m -> far.publish(m.getReplyTo(), answer, m.getData()));
        flush(far);
        Message reply = near.requestWithTimeout("hd.request", sent, bytes("body"), WAIT).get();
        checkEqual(reply.getHeaders().get("Answer"), List.of("1", "2", "3"), "headers of the reply");
        checkEqual(text(reply), "body", "payload after headers");
        Headers got = next(seen).getHeaders();
        checkEqual(got.size(), 3, "header names of the request");
        for (String name : sent.keySet()) {
            checkEqual(got.get(name), sent.get(name), "header " + name);
        }

        near.publish("hd.plain", new Headers().add("Only", "header"), bytes(""));
        near.publish("hd.plain", bytes("no header"));
        Message first = next(seen);
        checkEqual(first.getHeaders().getFirst("Only"), "header", "headers published");
        checkEqual(text(first), "", "payload beside headers");
        Message second = next(seen);
        check(!second.hasHeaders(), "headers of a message without");
        checkEqual(text(second), "no header", "payload without headers");
    }

    private static void wildcards(Connection near, Connection far) throws Exception {
        Map<String, List<String>> patterns = new LinkedHashMap<>();
        patterns.put("wc.a.b", List.of("wc.a.b"));
        patterns.put("wc.*.b", List.of("wc.a.b", "wc.c.b"));
        patterns.put("wc.a.*", List.of("wc.a.b", "wc.a.d"));
        patterns.put("*.a.b", List.of("wc.a.b"));
        patterns.put("wc.>", List.of("wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e"));
        patterns.put("wc.a.>", List.of("wc.a.b", "wc.a.d", "wc.a.b.e"));
        patterns.put("wc.*", List.of("wc.a"));
        Map<String, Subscription> subs = new LinkedHashMap<>();
        patterns.keySet().forEach(pattern -> subs.put(pattern, far.subscribe(pattern)));
        flush(far);
        for (String subject : List.of("wc", "wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e", "wcx.a.b.c")) {
            near.publish(subject, bytes(""));
        }
        flush(near, far);
        for (String pattern : patterns.keySet()) {
            List<String> got = takeAll(subs.get(pattern)).stream().map(Message::getSubject).toList();
            checkEqual(got, patterns.get(pattern), "subjects that reached " + pattern);
        }
    }

    private static void queueGroups(Connection near, Connection far) throws Exception {
        List<Subscription> members = List.of(
                near.subscribe("qg.*", "workers"),
                far.subscribe("qg.*", "workers"),
                far.subscribe("qg.job", "workers"));
        Subscription auditors = far.subscribe("qg.job", "auditors");
        Subscription plain = far.subscribe("qg.job");
        flush(near, far);
        publishAll(near, "qg.job", numbers(300));
        flush(near, far);
        List<String> got = new ArrayList<>();
        for (Subscription member : members) {
            List<String> share = payloads(takeAll(member));
            check(!share.isEmpty(), "every member of the group gets a share");
            got.addAll(share);
        }
        checkEqual(got.stream().sorted().toList(), numbers(300).stream().sorted().toList(), "the group");
        checkEqual(payloads(takeAll(auditors)), numbers(300), "the other group");
        checkEqual(payloads(takeAll(plain)), numbers(300), "the plain subscription");
    }

    private static void autoUnsubscribe(Connection near, Connection far) throws Exception {
        Subscription first = far.subscribe("au.first").unsubscribe(5);
        Subscription second = far.subscribe("au.second");
        flush(far);
        publishAll(near, "au.second", numbers(2));
        List<Message> got = new ArrayList<>(List.of(next(second), next(second)));
        second.unsubscribe(3);
        flush(far);
        publishAll(near, "au.first", numbers(10));
        publishAll(near, "au.second", numbers(12).subList(2, 12));
        flush(near, far);
        got.add(next(second));
        checkEqual(payloads(got), numbers(3), "messages before the limit was set count");
        List<String> five = new ArrayList<>();
        for (int i = 0; i < 5; i++) {
            five.add(text(next(first)));
        }
        checkEqual(five, numbers(5), "five messages");
        checkNoResponders(near, "au.first");
        checkNoResponders(near, "au.second");
    }

    private static void drainSubscription(Connection near, Connection far) throws Exception {
        Subscription sub = far.subscribe("ds.work");
        flush(far);
        publishAll(near, "ds.work", numbers(50));
        flush(near);
        CompletableFuture<Boolean> drained = sub.drain(WAIT);
        List<String> handled = new ArrayList<>();
        while (handled.size() < 50) {
            handled.add(text(next(sub)));
        }
        checkEqual(handled, numbers(50), "messages handled by the end of a drain");
        check(drained.get(10, TimeUnit.SECONDS), "the drain must come to its end");
        checkNoResponders(near, "ds.work");
    }

    private static void drainConnection(Connection near, Connection far) throws Exception {
        Watch watch = new Watch();
        Connection worker = connect(watch);
        AtomicInteger handled = new AtomicInteger();
        serve(worker, "dc.work", m -> {
            Thread.sleep(5);
            worker.publish("dc.answer", m.getData());
            handled.incrementAndGet();
        });
        Subscription answers = far.subscribe("dc.answer");
        flush(worker, far);
        publishAll(near, "dc.work", numbers(50));
        flush(near);
        check(worker.drain(WAIT).get(10, TimeUnit.SECONDS), "the drain must come to its end");
        check(watch.closed.await(10, TimeUnit.SECONDS), "a drained connection must be closed");
        checkEqual(handled.get(), 50, "messages handled by the end of a drain");
        checkEqual(payloads(takeAll(answers)), numbers(50), "answers published during the drain");
        checkNoResponders(near, "dc.work");
    }

    private static void largePayload(Connection near, Connection far) throws Exception {
        byte[] payload = new byte[PAYLOAD_MAX];
        for (int i = 0; i < payload.length; i++) {
            payload[i] = (byte) (i * 7 % 251);
        }
        serve(far, "lp.echo", m -> far.publish(m.getReplyTo(), m.getData()));
        flush(far);
        for (int i = 0; i < 3; i++) {
            Message reply = near.requestWithTimeout("lp.echo", payload, WAIT).get();
            check(Arrays.equals(reply.getData(), payload), "1 MiB must come back unchanged");
        }
    }

    private static void maxPayload(Connection near, Connection far) throws Exception {
        checkEqual(near.getMaxPayload(), (long) PAYLOAD_MAX, "max_payload of INFO");
        try {
            near.publish("mp.over", new byte[PAYLOAD_MAX + 1]);
            check(false, "a payload over the limit must be refused");
        } catch (IllegalArgumentException refused) {
            flush(near);
        }
    }

    private static void reconnect(Connection near, Connection far) throws Exception {
        Watch watch = new Watch();
        Connection client = connect(watch);
        List<Subscription> subs = List.of(
                client.subscribe("rc.plain"), client.subscribe("rc.*"), client.subscribe("rc.plain", "workers"));
        flush(client);
        System.out.println("restart");
        String answer = new BufferedReader(new InputStreamReader(System.in)).readLine();
        checkEqual(answer, "restarted", "answer to restart");
        check(watch.lost.await(10, TimeUnit.SECONDS), "the client must notice");
        check(watch.back.await(10, TimeUnit.SECONDS), "the client must come back");
        for (int i = 0; i < 1000 && near.getStatus() != Connection.Status.CONNECTED; i++) {
            Thread.sleep(10);
        }
        flush(client);
        near.publish("rc.plain", bytes("again"));
        flush(near, client);
        for (Subscription sub : subs) {
            checkEqual(payloads(takeAll(sub)), List.of("again"), "subscription after the restart");
        }
        client.close();
    }

    private static Map<String, Scenario> scenarios() {
        Map<String, Scenario> all = new LinkedHashMap<>();
        all.put("request_reply", Scenarios::requestReply);
        all.put("no_responders", Scenarios::noResponders);
        all.put("headers", Scenarios::headers);
        all.put("wildcards", Scenarios::wildcards);
        all.put("queue_groups", Scenarios::queueGroups);
        all.put("auto_unsubscribe", Scenarios::autoUnsubscribe);
        all.put("drain_subscription", Scenarios::drainSubscription);
        all.put("drain_connection", Scenarios::drainConnection);
        all.put("large_payload", Scenarios::largePayload);
        all.put("max_payload", Scenarios::maxPayload);
        all.put("reconnect", Scenarios::reconnect);
        return all;
    }

    public static void main(String[] arguments) throws Exception {
        Connection near = connect(new Watch());
        Connection far = connect(new Watch());
        scenarios().forEach((name, scenario) -> {
            try {
                scenario.run(near, far);
            } catch (Exception | AssertionError error) {
                System.err.println("fail " + name + ": " + error);
                System.exit(1);
            }
            System.out.println("ok " + name);
        });
        near.close();
        far.close();
    }
}
