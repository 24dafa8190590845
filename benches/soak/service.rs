//! A service that does what a request's path says, counts what it executes, and drops all of its
//! connections now and then.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyway::demo::Cloud;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::book::Book;
use crate::content::{self, Payload};

const RESTARTS: Duration = Duration::from_secs(5);

/// Starts it; its catalog URL.
pub(crate) async fn start(cloud: Arc<Cloud>, book: Arc<Book>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1", listener.local_addr().expect("it is bound"));
    tokio::spawn(serve(listener, cloud, book));
    url
}

async fn serve(listener: TcpListener, cloud: Arc<Cloud>, book: Arc<Book>) -> Infallible {
    let mut connections = JoinSet::new();
    let mut restart = tokio::time::interval(RESTARTS);
    restart.tick().await;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let (cloud, book) = (Arc::clone(&cloud), Arc::clone(&book));
                let answer = service_fn(move |request| answer(Arc::clone(&cloud), Arc::clone(&book), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
            Some(_) = connections.join_next() => {}
            _ = restart.tick() => {
                book.note_restart(true);
                connections.shutdown().await;
                book.note_restart(false);
            }
        }
    }
}

async fn answer(
    cloud: Arc<Cloud>,
    book: Arc<Book>,
    request: Request<Incoming>,
) -> Result<Response<Payload>, io::Error> {
    let path = request.uri().path().to_owned();
    let parts: Vec<_> = path.split('/').skip(2).collect();
    let number = |index: usize| parts.get(index).and_then(|part| part.parse::<usize>().ok());
    let (Some(kind), Some(id), Some(size)) = (parts.first(), number(1), number(2)) else {
        return Ok(reply(StatusCode::NOT_FOUND, 0, Payload::none()));
    };
    let method = request.method().clone();
    let tokens: Vec<_> = request.headers().get_all("x-auth-token").iter().collect();
    let good = tokens.len() == 1 && tokens[0].to_str().is_ok_and(|token| cloud.accepts(token));
    if !good {
        // Half of them as an API behind nginx does it.
        if id.is_multiple_of(2) {
            let _ = read(request.into_body(), id).await;
        }
        return Ok(unread(reply(StatusCode::UNAUTHORIZED, id, Payload::none())));
    }
    let ok = |payload| Ok(reply(StatusCode::OK, id, payload));
    match (*kind, &method) {
        ("get", &Method::GET) => ok(Payload::new(id, size, parts.get(3) != Some(&"chunked"))),
        ("get", &Method::HEAD) => {
            let mut answer = reply(StatusCode::OK, id, Payload::none());
            answer.headers_mut().insert("content-length", size.into());
            Ok(answer)
        }
        ("cut", _) => ok(Payload::new(id, size, parts.get(3) != Some(&"chunked")).breaking(size / 2)),
        ("reset", _) => Err(io::Error::other("a reset on purpose")),
        ("early", _) => Ok(unread(reply(StatusCode::PAYLOAD_TOO_LARGE, id, Payload::new(id, 10, true)))),
        ("post" | "late", &Method::POST) | ("put", &Method::PUT) | ("delete", &Method::DELETE) => {
            let read = read(request.into_body(), id).await?;
            if method == Method::POST {
                book.execute(id);
            }
            if *kind == "late" {
                return Err(io::Error::other("a reset on purpose"));
            }
            if read != Some(size) {
                return Ok(reply(StatusCode::UNPROCESSABLE_ENTITY, id, Payload::none()));
            }
            if method == Method::DELETE {
                return Ok(reply(StatusCode::NO_CONTENT, id, Payload::none()));
            }
            Ok(reply(StatusCode::CREATED, id, Payload::new(id, 40, true)))
        }
        _ => Ok(reply(StatusCode::METHOD_NOT_ALLOWED, id, Payload::none())),
    }
}

/// Reads a body to its proper end; how long it was if it is the right one.
async fn read(mut body: Incoming, id: usize) -> Result<Option<usize>, io::Error> {
    let (mut at, mut right) = (0, true);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            right &= content::is_of(id, at, &data);
            at += data.len();
        }
    }
    Ok(right.then_some(at))
}

/// hyper closes a connection whose request was not read, but does not say so: a POST that is on its way
/// by then would be lost.
fn unread(mut answer: Response<Payload>) -> Response<Payload> {
    answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    answer
}

fn reply(status: StatusCode, id: usize, payload: Payload) -> Response<Payload> {
    let mut answer = Response::new(payload);
    *answer.status_mut() = status;
    answer.headers_mut().insert("x-id", id.into());
    answer
}
