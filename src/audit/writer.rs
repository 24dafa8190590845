//! The thread that puts lines into the sink.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::sink::Sink;
use super::{Config, Line, OnFailure, State};
use crate::secret::causes;

/// How many lines are written at a time.
const BATCH: usize = 256;

/// How long after a failure a sink is tried again for the same line.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long, once nobody hands over lines any more.
const LAST_CHANCE: Duration = Duration::from_secs(30);

pub(super) struct Writer {
    pub(super) queue: mpsc::Receiver<Line>,
    pub(super) sink: Sink,
    pub(super) config: Config,
    pub(super) state: Arc<State>,
}

impl Writer {
    /// Ends when nobody is left who could hand over a line.
    pub(super) fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.write(&batch);
            batch.clear();
        }
    }

    fn write(&mut self, mut lines: &[Line]) {
        let (mut done, mut gives_up) = (0, None);
        loop {
            if self.state.reopen.swap(false, Ordering::AcqRel) {
                self.sink.reopen();
            }
            let (written, outcome) = self.sink.write(lines);
            lines = &lines[written..];
            done += written;
            match outcome {
                Ok(()) => {
                    self.works();
                    return self.state.wrote(done);
                }
                Err(error) => self.fails(&error),
            }
            if self.config.on_failure == OnFailure::Count {
                self.state.wrote(done);
                return self.state.lose(lines.len());
            }
            // One that a reload replaced, or that of a keyway that stops.
            if self.queue.is_closed() || self.queue.sender_strong_count() == 0 {
                let until = *gives_up.get_or_insert_with(|| Instant::now() + LAST_CHANCE);
                if Instant::now() >= until {
                    tracing::error!(sink = %self.config.target, lines = lines.len(), "lines of the audit are lost");
                    self.state.wrote(done);
                    return self.state.lose(lines.len());
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn works(&self) {
        if self.state.failing.swap(false, Ordering::Relaxed) {
            self.state.shown.set(0);
            let lost = self.state.lost.get();
            tracing::info!(sink = %self.config.target, lost, "the audit is written again");
        }
    }

    /// Said once.
    fn fails(&self, error: &std::io::Error) {
        if self.state.failing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.state.shown.set(1);
        let (sink, error) = (&self.config.target, causes(error));
        match self.config.on_failure {
            OnFailure::Stop => tracing::error!(
                %sink, error,
                "the audit can't be written, so requests are refused until it can: see to the sink"
            ),
            OnFailure::Count => tracing::error!(
                %sink, error,
                "the audit can't be written, so its lines are lost until it can: see to the sink"
            ),
        }
    }
}
