//! The cache with a store on disk, which other keyways write to as well.

use super::*;
use crate::keystone::{Store, store};

/// The fixture's cloud, and a store that it has not been asked for anything yet.
struct Kept {
    fixture: Fixture,
    store: Arc<Store>,
    name: String,
    _home: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::new(store::Config {
            directory: home.path().join("tokens"),
            key_file: home.path().join("token-key"),
            makes_key: true,
        }));
        let mut fixture = Fixture::new(3600);
        let config = config(password(), Scope::Default);
        let Auth::Identity(identity) = &config.auth else { panic!("it logs in") };
        let name = store.name(identity, &config.tls, &identity.scope, None).expect("there is a disk");
        let source = Source::Keystone(Box::new(Arc::clone(&fixture.keystone)));
        let seen = Arc::clone(&fixture.events);
        let observer: Observer = Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone()));
        let kept = Some(Keeping::Disk(Arc::clone(&store)));
        fixture.cache = TokenCache::with_sources(
            vec![(config, source)],
            kept,
            DEADLINE,
            Protection::default(),
            Handle::current(),
            observer,
        );
        Self { fixture, store, name, _home: home }
    }

    /// Another keyway leaves a token that has lived for so many of its 3600 seconds.
    fn leave(&self, id: &str, age: u64) {
        let born = slot::now().checked_sub(Duration::from_secs(age)).expect("the machine is up for longer");
        let id = TokenId::new(id).expect("a token");
        let mut token = Token::new(id, Catalog::default(), born, Duration::from_secs(3600));
        token.document = Some(r#"{"expires_at": "2026-11-21T22:21:13Z"}"#.into());
        let file = self.store.close(&self.name, &token).expect("it lives");
        self.store.save(&self.name, &file);
    }

    fn left(&self) -> Option<String> {
        self.store.load(&self.name).map(|token| token.id.expose().to_owned())
    }

    fn restored(&self) -> usize {
        let events = self.fixture.events.lock().unwrap();
        events.iter().filter(|event| matches!(event, Event::Restored { .. })).count()
    }
}

#[tokio::test]
async fn a_kept_token_spares_a_login_unless_it_is_about_to_end() {
    let kept = Kept::new();
    kept.leave("k1", 3000);
    assert_eq!(kept.fixture.current().await.unwrap(), "k1");
    assert_eq!((kept.fixture.keystone.logins(), kept.restored()), (0, 1));

    let kept = Kept::new();
    kept.leave("k1", 3300);
    assert_eq!(kept.fixture.current().await.unwrap(), "t1");
    assert_eq!((kept.fixture.outcomes(), kept.restored()), (vec![(Reason::Cold, Outcome::Ok)], 0));
}

#[tokio::test]
async fn a_kept_token_that_is_about_to_end_serves_as_long_as_there_is_no_other() {
    let kept = Kept::new();
    kept.leave("k1", 3300);
    kept.fixture.keystone.fail(1, AuthError::Timeout { after: DEADLINE });
    assert_eq!(kept.fixture.current().await.unwrap(), "k1");
    assert_eq!(kept.fixture.outcomes(), [(Reason::Cold, Outcome::Unavailable)]);
    assert_eq!((kept.restored(), kept.left().as_deref()), (1, Some("k1")));
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_what_another_keyway_got_meanwhile() {
    let kept = Kept::new();
    kept.leave("k1", 60);
    assert_eq!(kept.fixture.current().await.unwrap(), "k1");
    kept.leave("k2", 0);
    assert_eq!(kept.fixture.replace("k1").await.unwrap(), "k2");
    // A late 401 for the old one changes nothing.
    assert_eq!(kept.fixture.replace("k1").await.unwrap(), "k2");
    assert_eq!((kept.fixture.keystone.logins(), kept.left().as_deref()), (0, Some("k2")));
    // The refused one is gone before Keystone is asked.
    kept.fixture.keystone.fail(1, AuthError::Timeout { after: DEADLINE });
    assert!(kept.fixture.replace("k2").await.is_err());
    assert_eq!((kept.fixture.keystone.logins(), kept.left()), (1, None));
}

#[tokio::test]
async fn where_a_token_was_refused_no_other_is_taken_that_is_as_old() {
    let kept = Kept::new();
    kept.leave("k2", 60);
    assert_eq!(kept.fixture.current().await.unwrap(), "k2");
    // Whatever revoked the one may have revoked the other, and a request is sent once more, not twice.
    kept.leave("k1", 120);
    assert_eq!(kept.fixture.replace("k2").await.unwrap(), "t1");
    assert_eq!((kept.fixture.keystone.logins(), kept.restored()), (1, 1));
}

#[tokio::test]
async fn a_disk_that_is_given_up_costs_logins_and_nothing_else() {
    let kept = Kept::new();
    kept.leave("k1", 60);
    kept.store.give_up();
    assert_eq!(kept.fixture.current().await.unwrap(), "t1");
    assert_eq!((kept.fixture.keystone.logins(), kept.restored()), (1, 0));
}
