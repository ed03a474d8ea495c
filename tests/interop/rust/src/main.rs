//! The interop scenarios with async-nats. See run_client.py for how it is run, run_pair.py for the
//! roles.
//!
//!     scenarios [responder|requester]
//!
//! `flush` of async-nats ends when the bytes are on their way; it does not wait for a PONG. A request that
//! nobody answers takes its place here: the broker has handled all that was sent before it.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use async_nats::client::{PublishErrorKind, Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, Subscriber};
use futures_util::future::join_all;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const WAIT: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(200);
const PAYLOAD_MAX: usize = 1024 * 1024;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
type Scenario<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+).into());
        }
    };
}

macro_rules! check_equal {
    ($got:expr, $wanted:expr, $text:expr) => {
        let (got, wanted) = (&$got, &$wanted);
        check!(got == wanted, "{}: got {:?}, wanted {:?}", $text, got, wanted);
    };
}

mod pair; // behind the macros, which it uses

async fn connect(events: Option<mpsc::UnboundedSender<Event>>) -> Outcome<Client> {
    let url = std::env::var("NATS_URL")?;
    let options = ConnectOptions::new()
        .request_timeout(Some(WAIT))
        .reconnect_delay_callback(|_attempts| Duration::from_millis(100))
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                if let Some(events) = events {
                    let _ = events.send(event); // nobody listens any more: fine
                }
            }
        });
    Ok(timeout(WAIT, options.connect(url)).await??)
}

async fn wait_for_event(events: &mut mpsc::UnboundedReceiver<Event>, wanted: Event) -> Outcome {
    loop {
        match timeout(WAIT, events.recv()).await {
            Ok(Some(event)) if event == wanted => return Ok(()),
            Ok(Some(_)) => continue,
            _ => return Err(format!("no event {wanted:?}").into()),
        }
    }
}

async fn check_no_responders(client: &Client, subject: &str) -> Outcome {
    match client.request(subject.to_string(), "".into()).await {
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
        other => Err(format!("request to {subject}: {other:?}, wanted no responders").into()),
    }
}

/// The broker has handled everything that `clients` sent before.
async fn fence(clients: &[&Client]) -> Outcome {
    for client in clients {
        check_no_responders(client, "fence.nobody").await?;
    }
    Ok(())
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}

/// The next `count` messages.
async fn take(sub: &mut Subscriber, count: usize) -> Outcome<Vec<Message>> {
    let mut messages = Vec::new();
    while messages.len() < count {
        match timeout(WAIT, sub.next()).await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Err(format!("ended after {} of {count}", messages.len()).into()),
            Err(_) => return Err(format!("{} of {count} messages", messages.len()).into()),
        }
    }
    Ok(messages)
}

/// Every message until nothing comes any more.
async fn take_all(sub: &mut Subscriber) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Ok(Some(message)) = timeout(QUIET, sub.next()).await {
        messages.push(message);
    }
    messages
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(text).collect()
}

/// Answer every request on `subject` with what `reply` makes of it.
async fn serve<F>(client: &Client, subject: &'static str, reply: F) -> Outcome
where
    F: Fn(&Message) -> (HeaderMap, Vec<u8>) + Send + 'static,
{
    let mut sub = client.subscribe(subject).await?;
    let client = client.clone();
    tokio::spawn(async move {
        while let Some(request) = sub.next().await {
            let (headers, payload) = reply(&request);
            let inbox = request.reply.expect("a request has a reply subject");
            client.publish_with_headers(inbox, headers, payload.into()).await.expect("publish");
        }
    });
    Ok(())
}

async fn request_reply(near: &Client, far: &Client) -> Outcome {
    serve(far, "rr.upper", |request| (HeaderMap::new(), request.payload.to_ascii_uppercase()))
        .await?;
    let _silent = far.subscribe("rr.silent").await?;
    fence(&[far]).await?;
    for i in 0..100 {
        let reply = near.request("rr.upper", format!("one-{i}").into()).await?;
        check_equal!(text(&reply), format!("ONE-{i}"), "reply to a request alone");
    }
    let requests = (0..100).map(|i| near.request("rr.upper", format!("many-{i}").into()));
    for (i, reply) in join_all(requests).await.into_iter().enumerate() {
        check_equal!(text(&reply?), format!("MANY-{i}"), "reply to one of many requests");
    }
    let silent = near.send_request("rr.silent", Request::new().timeout(Some(QUIET))).await;
    let kind = silent.map(|_| ()).map_err(|error| error.kind());
    check_equal!(kind, Err(RequestErrorKind::TimedOut), "request nobody answers");
    Ok(())
}

async fn no_responders(near: &Client, far: &Client) -> Outcome {
    check_no_responders(near, "nr.nobody").await?;
    let mut sub = far.subscribe("nr.service").await?;
    fence(&[far]).await?;
    sub.unsubscribe().await?;
    fence(&[far]).await?;
    check_no_responders(near, "nr.service").await
}

fn header_lists(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let list =
        |values: &Vec<async_nats::HeaderValue>| values.iter().map(|v| v.to_string()).collect();
    headers.iter().map(|(name, values)| (name.to_string(), list(values))).collect()
}

async fn headers(near: &Client, far: &Client) -> Outcome {
    let mut sent = HeaderMap::new();
    for (name, value) in [
        ("Alpha", "one"),
        ("Alpha", "two"),
        ("alpha", "three"),
        ("Empty", ""),
        ("Text", "größer: 1, 2"),
    ] {
        sent.append(name, value);
    }
    let mut seen = far.subscribe("hd.request").await?;
    serve(far, "hd.request", |request| {
        let mut answer = HeaderMap::new();
        ["1", "2", "3"].iter().for_each(|value| answer.append("Answer", *value));
        (answer, request.payload.to_vec())
    })
    .await?;
    fence(&[far]).await?;
    let reply = near.request_with_headers("hd.request", sent.clone(), "body".into()).await?;
    let answer = BTreeMap::from([("Answer".to_string(), vec!["1".into(), "2".into(), "3".into()])]);
    check_equal!(
        header_lists(&reply.headers.clone().unwrap_or_default()),
        answer,
        "headers of the reply"
    );
    check_equal!(text(&reply), "body", "payload after headers");
    let request = take(&mut seen, 1).await?.remove(0);
    let got = header_lists(&request.headers.unwrap_or_default());
    check_equal!(got, header_lists(&sent), "headers of the request");

    let mut plain = far.subscribe("hd.plain").await?;
    fence(&[far]).await?;
    let mut only = HeaderMap::new();
    only.insert("Only", "header");
    near.publish_with_headers("hd.plain", only.clone(), "".into()).await?;
    near.publish("hd.plain", "no header".into()).await?;
    let messages = take(&mut plain, 2).await?;
    check_equal!(payloads(&messages), ["", "no header"], "payloads published");
    check_equal!(messages[0].headers, Some(only), "headers published");
    check_equal!(messages[1].headers, None, "headers of a message without");
    Ok(())
}

async fn wildcards(near: &Client, far: &Client) -> Outcome {
    let patterns: [(&str, &[&str]); 7] = [
        ("wc.a.b", &["wc.a.b"]),
        ("wc.*.b", &["wc.a.b", "wc.c.b"]),
        ("wc.a.*", &["wc.a.b", "wc.a.d"]),
        ("*.a.b", &["wc.a.b"]),
        ("wc.>", &["wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e"]),
        ("wc.a.>", &["wc.a.b", "wc.a.d", "wc.a.b.e"]),
        ("wc.*", &["wc.a"]),
    ];
    let mut subs = Vec::new();
    for (pattern, _) in patterns {
        subs.push(far.subscribe(pattern).await?);
    }
    fence(&[far]).await?;
    for subject in ["wc", "wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e", "wcx.a.b.c"] {
        near.publish(subject, "".into()).await?;
    }
    fence(&[near, far]).await?;
    for (sub, (pattern, wanted)) in subs.iter_mut().zip(patterns) {
        let messages = take_all(sub).await;
        let subjects: Vec<&str> = messages.iter().map(|message| message.subject.as_str()).collect();
        check_equal!(subjects, wanted, format!("subjects that reached {pattern}"));
    }
    Ok(())
}

async fn queue_groups(near: &Client, far: &Client) -> Outcome {
    let workers = || "workers".to_string();
    let mut members = [
        near.queue_subscribe("qg.*", workers()).await?,
        far.queue_subscribe("qg.*", workers()).await?,
        far.queue_subscribe("qg.job", workers()).await?,
    ];
    let mut auditors = far.queue_subscribe("qg.job", "auditors".into()).await?;
    let mut plain = far.subscribe("qg.job").await?;
    fence(&[near, far]).await?;
    for payload in numbers(300) {
        near.publish("qg.job", payload.into()).await?;
    }
    let reached = payloads(&take(&mut plain, 300).await?);
    check_equal!(reached, numbers(300), "each message reaches the plain subscription");
    fence(&[near, far]).await?;
    let mut got = Vec::new();
    for member in members.iter_mut() {
        let share = take_all(member).await;
        check!(!share.is_empty(), "every member of the group gets a share");
        got.extend(payloads(&share));
    }
    check_equal!(sorted(got), sorted(numbers(300)), "each message reaches one member of the group");
    let audited = payloads(&take_all(&mut auditors).await);
    check_equal!(audited, numbers(300), "each message reaches the other group too");
    check!(take_all(&mut plain).await.is_empty(), "no message comes twice");
    Ok(())
}

async fn auto_unsubscribe(near: &Client, far: &Client) -> Outcome {
    let mut first = far.subscribe("au.first").await?;
    first.unsubscribe_after(5).await?;
    let mut second = far.subscribe("au.second").await?;
    fence(&[far]).await?;
    near.publish("au.second", "0".into()).await?;
    near.publish("au.second", "1".into()).await?;
    let mut got = take(&mut second, 2).await?;
    second.unsubscribe_after(3).await?;
    fence(&[far]).await?;
    for i in 0..10 {
        near.publish("au.first", i.to_string().into()).await?;
        near.publish("au.second", (i + 2).to_string().into()).await?;
    }
    fence(&[near, far]).await?;
    got.extend(take_all(&mut second).await);
    check_equal!(payloads(&take_all(&mut first).await), numbers(5), "five messages, then no more");
    check_equal!(payloads(&got), numbers(3), "messages before the limit was set count");
    check_no_responders(near, "au.first").await?;
    check_no_responders(near, "au.second").await
}

async fn drain_subscription(near: &Client, far: &Client) -> Outcome {
    let mut sub = far.subscribe("ds.work").await?;
    fence(&[far]).await?;
    for payload in numbers(50) {
        near.publish("ds.work", payload.into()).await?;
    }
    fence(&[near]).await?;
    sub.drain().await?;
    let mut handled = Vec::new();
    while let Some(message) = timeout(WAIT, sub.next()).await? {
        sleep(Duration::from_millis(5)).await;
        handled.push(message);
    }
    check_equal!(payloads(&handled), numbers(50), "messages handled by the end of a drain");
    fence(&[far]).await?;
    check_no_responders(near, "ds.work").await
}

async fn drain_connection(near: &Client, far: &Client) -> Outcome {
    let (sender, mut events) = mpsc::unbounded_channel();
    let worker = connect(Some(sender)).await?;
    let mut work = worker.subscribe("dc.work").await?;
    let mut answers = far.subscribe("dc.answer").await?;
    fence(&[&worker, far]).await?;
    for payload in numbers(50) {
        near.publish("dc.work", payload.into()).await?;
        let message = take(&mut work, 1).await?.remove(0);
        worker.publish("dc.answer", message.payload).await?;
    }
    near.publish("dc.work", "last".into()).await?;
    fence(&[near]).await?;
    worker.drain().await?;
    let mut last = Vec::new();
    while let Some(message) = timeout(WAIT, work.next()).await? {
        last.push(message);
    }
    check_equal!(payloads(&last), ["last"], "messages that waited when the drain began");
    wait_for_event(&mut events, Event::Closed).await?;
    let got = payloads(&take(&mut answers, 50).await?);
    check_equal!(got, numbers(50), "answers published before the drain");
    check_no_responders(near, "dc.work").await
}

async fn large_payload(near: &Client, far: &Client) -> Outcome {
    let payload: Vec<u8> = (0..PAYLOAD_MAX).map(|i| (i * 7 % 251) as u8).collect();
    serve(far, "lp.echo", |request| (HeaderMap::new(), request.payload.to_vec())).await?;
    fence(&[far]).await?;
    for _ in 0..3 {
        let reply = near.request("lp.echo", payload.clone().into()).await?;
        check!(reply.payload == payload, "1 MiB came back changed, {} bytes", reply.payload.len());
    }
    Ok(())
}

async fn max_payload(near: &Client, _far: &Client) -> Outcome {
    check_equal!(near.max_payload(), PAYLOAD_MAX, "max_payload of INFO");
    let published = near.publish("mp.over", vec![0; PAYLOAD_MAX + 1].into()).await;
    let kind = published.map_err(|error| error.kind());
    check_equal!(kind, Err(PublishErrorKind::MaxPayloadExceeded), "payload over the limit");
    fence(&[near]).await
}

async fn reconnect(near: &Client, _far: &Client) -> Outcome {
    let (sender, mut events) = mpsc::unbounded_channel();
    let client = connect(Some(sender)).await?;
    let mut subs = [
        client.subscribe("rc.plain").await?,
        client.subscribe("rc.*").await?,
        client.queue_subscribe("rc.plain", "workers".into()).await?,
    ];
    fence(&[&client]).await?;

    println!("restart");
    std::io::stdout().flush()?;
    let answer = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
    check_equal!(answer.transpose()?, Some("restarted".to_string()), "answer to restart");
    wait_for_event(&mut events, Event::Disconnected).await?;
    wait_for_event(&mut events, Event::Connected).await?;
    timeout(WAIT, async {
        while near.connection_state() != State::Connected {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await?;
    fence(&[&client]).await?;
    near.publish("rc.plain", "again".into()).await?;
    fence(&[near, &client]).await?;
    for sub in subs.iter_mut() {
        let got = payloads(&take_all(sub).await);
        check_equal!(got, ["again"], "subscription after the restart");
    }
    Ok(())
}

/// Ends the process at the first one that does not hold.
async fn run_all<'a>(scenarios: impl IntoIterator<Item = (&'a str, Scenario<'a>)>) -> Outcome {
    for (name, scenario) in scenarios {
        if let Err(error) = scenario.await {
            eprintln!("fail {name}: {error}");
            std::process::exit(1);
        }
        println!("ok {name}");
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    if let Some(role) = std::env::args().nth(1) {
        return pair::run(&role).await;
    }
    let (near, far) = (&connect(None).await?, &connect(None).await?);
    let scenarios: [(&str, Scenario); 11] = [
        ("request_reply", Box::pin(request_reply(near, far))),
        ("no_responders", Box::pin(no_responders(near, far))),
        ("headers", Box::pin(headers(near, far))),
        ("wildcards", Box::pin(wildcards(near, far))),
        ("queue_groups", Box::pin(queue_groups(near, far))),
        ("auto_unsubscribe", Box::pin(auto_unsubscribe(near, far))),
        ("drain_subscription", Box::pin(drain_subscription(near, far))),
        ("drain_connection", Box::pin(drain_connection(near, far))),
        ("large_payload", Box::pin(large_payload(near, far))),
        ("max_payload", Box::pin(max_payload(near, far))),
        ("reconnect", Box::pin(reconnect(near, far))),
    ];
    run_all(scenarios).await
}
