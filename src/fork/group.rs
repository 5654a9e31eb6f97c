//! Group commit: whoever comes first works for all who come meanwhile. Nothing here knows what the work is.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Collects asks, and has one caller answer them in batches.
#[derive(Debug)]
pub(crate) struct GroupCommit<A, R> {
    inbox: Mutex<Inbox<A, R>>,
}

#[derive(Debug)]
struct Inbox<A, R> {
    waiting: Vec<(A, SyncSender<R>)>,
    has_leader: bool,
}

impl<A, R> Default for GroupCommit<A, R> {
    fn default() -> Self {
        Self { inbox: Mutex::new(Inbox { waiting: Vec::new(), has_leader: false }) }
    }
}

/// Gives the lead up when the leader's work ends, or unwinds: nobody must wait for a leader that is gone.
struct Lead<'a, A, R>(&'a GroupCommit<A, R>);

impl<A, R> Drop for Lead<'_, A, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut inbox = self.0.inbox();
            inbox.has_leader = false;
            inbox.waiting.clear();
        }
    }
}

impl<A, R> GroupCommit<A, R> {
    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox<A, R>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands asks in and waits for their answers, in order; `None` where the leader died. `work` answers a whole batch.
    pub(crate) fn submit(&self, asks: Vec<A>, work: impl Fn(Vec<A>) -> Vec<R>) -> Vec<Option<R>> {
        let mut answers: Vec<Receiver<R>> = Vec::with_capacity(asks.len());
        let leads = {
            let mut inbox = self.inbox();
            for ask in asks {
                let (tx, rx) = sync_channel(1);
                inbox.waiting.push((ask, tx));
                answers.push(rx);
            }
            !std::mem::replace(&mut inbox.has_leader, true)
        };
        if leads {
            self.lead(work);
        }
        answers.into_iter().map(|rx| rx.recv().ok()).collect()
    }

    fn lead(&self, work: impl Fn(Vec<A>) -> Vec<R>) {
        let _lead = Lead(self);
        loop {
            let batch = {
                let mut inbox = self.inbox();
                if inbox.waiting.is_empty() {
                    inbox.has_leader = false;
                    return;
                }
                std::mem::take(&mut inbox.waiting)
            };
            let (asks, senders): (Vec<A>, Vec<SyncSender<R>>) = batch.into_iter().unzip();
            for (answer, sender) in work(asks).into_iter().zip(senders) {
                // An asker that no longer waits for the answer has lost nothing by that.
                let _ = sender.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn everybody_gets_the_answer_to_their_own_ask_and_batches_are_fewer_than_asks() {
        let group = GroupCommit::default();
        let batches = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for i in 0..64u32 {
                let (group, batches) = (&group, &batches);
                scope.spawn(move || {
                    let answer = group.submit(vec![i], |asks| {
                        batches.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        asks.into_iter().map(|a| a * 2).collect()
                    });
                    assert_eq!(answer, [Some(i * 2)]);
                });
            }
        });
        assert!(batches.load(Ordering::SeqCst) < 64);
    }
}
