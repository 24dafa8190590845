//! What do keyways that share a store tell each other?
//!
//! On a channel, and what has to be known for longer also in a set: sealed with the operator's key, so that nobody else
//! can say it or read it. Somebody may say again what was said before: that a token is of no use stays true.

use redis::Value;
use ring::digest::{SHA256, digest};

use super::{Store, TokenId};
use crate::keystone::seal::Seal;

/// Tells all who listen. `KEYS`: the set. `ARGV`: the channel, the news, until when they matter (UNIX seconds; 0: now
/// only), now, the longest time that anything matters (seconds).
const TELL: &str = "if tonumber(ARGV[3]) > 0 then
  if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[4])
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[5])
end
return redis.call('PUBLISH', ARGV[1], ARGV[2])";

/// A part of all that still matters. `KEYS`: the set. `ARGV`: now, where the part begins, how many.
const RECALL: &str = "if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', ARGV[2], ARGV[3])";

/// How many are recalled at a time, so that none of it takes long; and in all.
const PART: usize = 1000;
const MOST_RECALLED: usize = 200_000;

/// The longest time that anything matters, seconds: no token of keyway's own lives for longer.
pub const LONGEST_NEWS: i64 = 30 * 24 * 3600;

/// Bytes that no news are longer than, sealed.
const MOST_BYTES: usize = 256;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A service refused the token with this [`fingerprint`].
    Refused([u8; 16]),
    /// A token of keyway's own with this id was revoked; its end, UNIX seconds.
    Revoked([u8; 16], i64),
    /// All tokens of keyway's own that were issued until then, UNIX seconds.
    RevokedUntil(i64),
}

/// Which token it is, for those who have it too.
pub fn fingerprint(token: &TokenId) -> [u8; 16] {
    let hash = digest(&SHA256, &[b"keyway token ", token.expose().as_bytes()].concat());
    hash.as_ref()[..16].try_into().expect("16 of 32 bytes")
}

impl News {
    fn encode(self) -> Vec<u8> {
        match self {
            Self::Refused(token) => [&b"t"[..], &token].concat(),
            Self::Revoked(id, end) => [&b"r"[..], &id, &end.to_be_bytes()].concat(),
            Self::RevokedUntil(at) => [&b"u"[..], &at.to_be_bytes()].concat(),
        }
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let (kind, rest) = text.split_first()?;
        match kind {
            b't' => Some(Self::Refused(rest.try_into().ok()?)),
            b'r' => {
                let (id, end) = rest.split_at_checked(16)?;
                Some(Self::Revoked(id.try_into().ok()?, i64::from_be_bytes(end.try_into().ok()?)))
            }
            b'u' => Some(Self::RevokedUntil(i64::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }

    /// As it is told.
    pub fn close(self, seal: &Seal) -> Vec<u8> {
        seal.close_message(&self.encode())
    }

    /// What was told; `None` for what nobody with this key said.
    pub fn open(seal: &Seal, told: &[u8]) -> Option<Self> {
        if told.len() > MOST_BYTES {
            return None;
        }
        Self::decode(&seal.open_message(told)?)
    }

    /// Until when it matters, UNIX seconds; 0: whoever does not hear it now need not know.
    fn until(self) -> i64 {
        match self {
            Self::Refused(_) => 0,
            Self::Revoked(_, end) => end,
            Self::RevokedUntil(at) => at.saturating_add(LONGEST_NEWS),
        }
    }
}

/// Tells all who listen; `None` where there is no store to do it.
pub(super) async fn write(store: &Store, news: &News) -> Option<()> {
    let told = news.close(store.seal());
    let [until, now, longest] = [news.until(), now(), LONGEST_NEWS].map(|number| number.to_string());
    let channel = store.channel();
    let arguments = [channel.as_bytes(), &told, until.as_bytes(), now.as_bytes(), longest.as_bytes()];
    store.run(TELL, &[&set(store)], &arguments).await.map(drop)
}

/// Some of what was told while nobody listened here, and still matters; `None` where the store does not say. What is
/// none of ours is among it, since it counts for where the next part begins.
pub(super) async fn recall(store: &Store, from: usize) -> Option<Vec<Option<News>>> {
    if from >= MOST_RECALLED {
        return None;
    }
    let [now, from, part] = [now().to_string(), from.to_string(), PART.to_string()];
    let arguments = [now.as_bytes(), from.as_bytes(), part.as_bytes()];
    let Value::Array(told) = store.run(RECALL, &[&set(store)], &arguments).await? else { return None };
    Some(told.iter().take(PART).map(|told| hear(store, told)).collect())
}

/// What this means, if it is one of ours.
pub(super) fn hear(store: &Store, told: &Value) -> Option<News> {
    let Value::BulkString(told) = told else { return None };
    store.seals.iter().find_map(|seal| News::open(seal, told))
}

fn set(store: &Store) -> String {
    format!("{}revoked", store.config.prefix)
}

/// UNIX seconds.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::private::Key;

    fn seal(byte: u8) -> Seal {
        Seal::new(&Key::new([byte; 32]))
    }

    #[test]
    fn what_is_told_is_heard_by_who_has_the_key_and_by_nobody_else() {
        for news in [News::Refused([7; 16]), News::Revoked([8; 16], 9), News::RevokedUntil(i64::MAX)] {
            let told = news.close(&seal(1));
            assert!(told.len() <= MOST_BYTES && !told.windows(4).any(|part| part == [7; 4]));
            assert_eq!(News::open(&seal(1), &told), Some(news));
            assert_eq!(News::open(&seal(2), &told), None);
            for index in 0..told.len() {
                let mut changed = told.clone();
                changed[index] ^= 1;
                assert_eq!(News::open(&seal(1), &changed), None);
                assert_eq!(News::open(&seal(1), &told[..index]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_was_not_sealed_is_news(told in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(News::open(&seal(1), &told), None);
            // Sealed by somebody with the key, it may still be anything.
            if let Some(news) = News::decode(&told) {
                prop_assert_eq!(news.encode(), told);
            }
        }
    }
}
