//! async-nats as the responder or the requester of a pair. See run_pair.py for what the two say to
//! each other.

use super::*;

const COUNT: usize = 200;
const JOB_COUNT: usize = 300;

fn number_headers(i: usize) -> Option<HeaderMap> {
    (i % 2 == 1).then(|| {
        let mut headers = HeaderMap::new();
        headers.insert("Number", i.to_string());
        headers
    })
}

async fn publish_numbers(client: &Client, subject: &'static str) -> Outcome {
    for i in 0..COUNT {
        match number_headers(i) {
            Some(headers) => {
                client.publish_with_headers(subject, headers, i.to_string().into()).await?
            }
            None => client.publish(subject, i.to_string().into()).await?,
        }
    }
    Ok(())
}

/// What ask.count answers.
fn judge_numbers(messages: &[Message]) -> String {
    for (i, message) in messages.iter().enumerate() {
        if text(message) != i.to_string() || message.headers != number_headers(i) {
            return format!("message {i} is {:?} with {:?}", text(message), message.headers);
        }
    }
    format!("{} in order", messages.len())
}

async fn respond(client: &Client) -> Outcome {
    let mut sink = client.subscribe("sink").await?;
    let mut work = client.queue_subscribe("work", "workers".into()).await?;
    let mut asked = client.subscribe("ask.*").await?;
    fence(&[client]).await?;
    println!("ready");
    while let Some(request) = asked.next().await {
        let inbox = request.reply.clone().ok_or("a request has a reply subject")?;
        match request.subject.trim_start_matches("ask.") {
            "upper" => {
                client.publish(inbox, request.payload.to_ascii_uppercase().into()).await?;
            }
            "headers" => {
                let mut headers = request.headers.clone().unwrap_or_default();
                ["1", "2"].iter().for_each(|value| headers.append("Answer", *value));
                client.publish_with_headers(inbox, headers, request.payload).await?;
            }
            "send" => {
                publish_numbers(client, "source").await?;
                client.publish(inbox, "".into()).await?;
            }
            "count" => {
                client.publish(inbox, judge_numbers(&take_all(&mut sink).await).into()).await?;
            }
            "share" => {
                let share = payloads(&take_all(&mut work).await).join(" ");
                client.publish(inbox, share.into()).await?;
            }
            "leave" => {
                client.publish(inbox, "bye".into()).await?;
                break;
            }
            _ => {}
        }
    }
    client.drain().await?;
    while timeout(WAIT, asked.next()).await?.is_some() {}
    Ok(())
}

async fn ask(client: &Client, what: &str, payload: &str) -> Outcome<String> {
    Ok(text(&client.request(format!("ask.{what}"), payload.to_string().into()).await?))
}

async fn request_reply(client: &Client) -> Outcome {
    for i in 0..100 {
        let reply = ask(client, "upper", &format!("one-{i}")).await?;
        check_equal!(reply, format!("ONE-{i}"), "reply");
    }
    Ok(())
}

async fn requests_in_flight(client: &Client) -> Outcome {
    let payloads: Vec<String> = (0..100).map(|i| format!("many-{i}")).collect();
    let replies = join_all(payloads.iter().map(|payload| ask(client, "upper", payload))).await;
    for (payload, reply) in payloads.iter().zip(replies) {
        check_equal!(reply?, payload.to_uppercase(), "reply to one of many requests");
    }
    Ok(())
}

async fn large_payload(client: &Client) -> Outcome {
    let payload: String = ('a'..='z').cycle().take(PAYLOAD_MAX).collect();
    let reply = ask(client, "upper", &payload).await?;
    check!(reply == payload.to_uppercase(), "1 MiB came back changed, {} bytes", reply.len());
    Ok(())
}

async fn headers(client: &Client) -> Outcome {
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
    let reply = client.request_with_headers("ask.headers", sent.clone(), "body".into()).await?;
    let mut wanted = header_lists(&sent);
    wanted.insert("Answer".into(), vec!["1".into(), "2".into()]);
    let got = header_lists(&reply.headers.clone().unwrap_or_default());
    check_equal!(got, wanted, "headers of the reply");
    check_equal!(text(&reply), "body", "payload after headers");
    Ok(())
}

async fn publish(client: &Client) -> Outcome {
    publish_numbers(client, "sink").await?;
    let reply = ask(client, "count", "").await?;
    check_equal!(reply, format!("{COUNT} in order"), "what the responder received");
    Ok(())
}

async fn subscribe(client: &Client) -> Outcome {
    let mut source = client.subscribe("source").await?;
    check_equal!(ask(client, "send", "").await?, "", "reply without payload");
    let judged = judge_numbers(&take_all(&mut source).await);
    check_equal!(judged, format!("{COUNT} in order"), "what was received");
    Ok(())
}

async fn queue_group(client: &Client) -> Outcome {
    let mut work = client.queue_subscribe("work", "workers".into()).await?;
    fence(&[client]).await?;
    for job in numbers(JOB_COUNT) {
        client.publish("work", job.into()).await?;
    }
    let reply = ask(client, "share", "").await?;
    let theirs: Vec<String> = reply.split_whitespace().map(str::to_string).collect();
    let ours = payloads(&take_all(&mut work).await);
    check!(!theirs.is_empty() && !ours.is_empty(), "each member of the group gets a share");
    let all = sorted([theirs, ours].concat());
    check_equal!(all, sorted(numbers(JOB_COUNT)), "each message reaches one member");
    Ok(())
}

async fn request_silent(client: &Client, subject: &'static str) -> Result<(), RequestErrorKind> {
    let request = Request::new().timeout(Some(QUIET));
    client.send_request(subject, request).await.map(|_| ()).map_err(|error| error.kind())
}

async fn no_responders(client: &Client) -> Outcome {
    check_no_responders(client, "nobody").await?;
    let outcome = request_silent(client, "ask.silent").await;
    check_equal!(outcome, Err(RequestErrorKind::TimedOut), "request that nobody answers");
    Ok(())
}

async fn responder_leaves(client: &Client) -> Outcome {
    check_equal!(ask(client, "leave", "").await?, "bye", "last reply");
    let gone = async {
        while request_silent(client, "ask.upper").await != Err(RequestErrorKind::NoResponders) {}
    };
    Ok(timeout(WAIT, gone).await?)
}

async fn request(client: &Client) -> Outcome {
    let scenarios: [(&str, Scenario); 9] = [
        ("request_reply", Box::pin(request_reply(client))),
        ("requests_in_flight", Box::pin(requests_in_flight(client))),
        ("large_payload", Box::pin(large_payload(client))),
        ("headers", Box::pin(headers(client))),
        ("publish", Box::pin(publish(client))),
        ("subscribe", Box::pin(subscribe(client))),
        ("queue_group", Box::pin(queue_group(client))),
        ("no_responders", Box::pin(no_responders(client))),
        ("responder_leaves", Box::pin(responder_leaves(client))),
    ];
    run_all(scenarios).await
}

pub async fn run(role: &str) -> Outcome {
    let client = connect(None).await?;
    match role {
        "responder" => respond(&client).await,
        "requester" => request(&client).await,
        _ => Err(format!("unknown role {role}").into()),
    }
}
