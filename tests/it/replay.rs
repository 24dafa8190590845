//! Whatever pieces a body comes in, and wherever they are cut, its bytes arrive as they were sent; a
//! second attempt has all of them or does not happen.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyway::body::{Budget, RequestBody};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::support::direct::{Keyway, fixed_cloud};
use crate::support::judge;
use crate::support::raw::{Recorder, status};

/// A chunked body as a client writes it, cut into writes of these sizes.
fn wire(pieces: &[Vec<u8>], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut wire = Vec::new();
    for piece in pieces {
        wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let (mut writes, mut rest) = (Vec::new(), wire.as_slice());
    for cut in cuts {
        let (write, after) = rest.split_at((*cut).min(rest.len()));
        writes.push(write.to_vec());
        rest = after;
    }
    writes.push(rest.to_vec());
    writes
}

fn pieces() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<usize>)> {
    let piece = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..40),
        1 => (any::<u8>(), 1000..80_000usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    (prop::collection::vec(piece, 0..12), prop::collection::vec(1..300usize, 0..12))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs `test` with a body that hyper reads from these writes.
fn with_body(
    writes: Vec<Vec<u8>>,
    test: impl AsyncFnOnce(Incoming) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    runtime().block_on(async move {
        let (mut client, server) = tokio::io::duplex(64);
        let (sender, mut requests) = mpsc::unbounded_channel::<Request<Incoming>>();
        let service = service_fn(move |request| {
            let _ = sender.send(request);
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        });
        let serving = tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service),
        );
        let writing = tokio::spawn(async move {
            let _ = client.write_all(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for write in writes {
                let _ = client.write_all(&write).await;
                tokio::task::yield_now().await;
            }
            client
        });
        let request = requests.recv().await.expect("a request");
        let outcome = test(request.into_body()).await;
        writing.abort();
        serving.abort();
        outcome
    })
}

/// Reads at most so many frames.
async fn read(body: &mut RequestBody, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..frames {
        match poll_fn(|cx| body.poll_gathered(cx)).await {
            Some(frame) => bytes.extend(frame.expect("a good body").into_data().expect("no trailers")),
            None => break,
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Promise 52.
    #[test]
    fn a_second_attempt_has_the_whole_body_or_does_not_happen(
        (pieces, cuts) in pieces(),
        limit in 0..100_000usize,
        total in 0..100_000usize,
        ahead in any::<bool>(),
        frames in 0..20usize,
    ) {
        let whole = pieces.concat();
        with_body(wire(&pieces, &cuts), async |incoming| {
            let budget = Arc::new(Budget::new(total, limit));
            let mut body = RequestBody::new(incoming.into(), Arc::clone(&budget));
            if ahead {
                let filled = body.fill().await.expect("a good body");
                prop_assert_eq!(filled, body.is_whole());
                prop_assert_eq!(filled, whole.len() <= limit.min(total));
                prop_assert_eq!(body.whole().map(|bytes| bytes.to_vec()), filled.then(|| whole.clone()));
            }
            let mut first = read(&mut body, frames).await;
            if body.rewind() {
                prop_assert_eq!(&read(&mut body, usize::MAX).await, &whole);
            } else {
                prop_assert!(whole.len() > limit.min(total), "it fits");
                first.extend(read(&mut body, usize::MAX).await);
                prop_assert_eq!(&first, &whole);
            }
            prop_assert_eq!(body.received(), whole.len() as u64);
            let again = body.rewind();
            prop_assert_eq!(again, whole.len() <= limit.min(total));
            if again {
                prop_assert_eq!(&read(&mut body, usize::MAX).await, &whole);
            }
            drop(body);
            prop_assert_eq!(format!("{budget:?}"), format!("{:?}", Budget::new(total, limit)));
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    // Promises 31, 32.
    #[test]
    fn whatever_pieces_a_body_comes_in_its_bytes_arrive((pieces, cuts) in pieces(), chunked in any::<bool>()) {
        let whole = pieces.concat();
        runtime().block_on(async {
            let service = Recorder::start().await;
            let keyway = Keyway::start(fixed_cloud(&service.url()));
            let mut client = keyway.connect().await;
            let (framing, writes) = if chunked {
                ("Transfer-Encoding: chunked".to_owned(), wire(&pieces, &cuts))
            } else {
                (format!("Content-Length: {}", whole.len()), pieces.clone())
            };
            client.send(format!("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n")).await;
            for write in writes {
                client.send(write).await;
                tokio::task::yield_now().await;
            }
            prop_assert_eq!(status(&client.response().await.0), 200);
            let connections = service.connections();
            prop_assert_eq!(connections.len(), 1);
            let requests = judge::requests(&connections[0]);
            prop_assert_eq!(requests.len(), 1);
            prop_assert!(requests[0].body == whole);
            Ok(())
        })?;
    }
}
