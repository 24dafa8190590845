//! No account is locked by keyway: this Keystone counts wrong passwords as the real one does, until a right one comes,
//! however long that takes.

use super::*;

const DAY: u64 = 24 * 3600;

impl Fixture {
    /// For so many clouds that log in as the same user.
    fn of_clouds(count: usize) -> Self {
        let mut fixture = Self::new(3600);
        fixture.cache = fixture.anew(count, Protection::default());
        fixture
    }

    /// A cache for the same Keystone and user, as a reload makes it.
    fn anew(&self, count: usize, protection: Protection) -> TokenCache {
        let cloud = |_| {
            let source = Source::Keystone(Box::new(Arc::clone(&self.keystone)));
            (config(password(), Scope::Default), source)
        };
        let seen = Arc::clone(&self.events);
        let observer: Observer = Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone()));
        let clouds = (0..count).map(cloud).collect();
        TokenCache::with_sources(clouds, None, DEADLINE, protection, Handle::current(), observer)
    }

    /// A thousand requests at once, for the clouds' own scopes, projects and scopes that somebody made up; how many
    /// of them get a token.
    async fn load(&self) -> usize {
        let mut crowd = JoinSet::new();
        let clouds = self.cache.shared.clouds.len().max(1);
        for n in 0..1000 {
            let scope = match n % 4 {
                0 => Asked::Own,
                1 => Asked::Project(format!("q{}", n % 40)),
                2 => Asked::Exactly(Scope::Project(Project::Id(format!("q{}", n % 50)))),
                _ => Asked::Exactly(Scope::Domain(Domain::Name(format!("made-up-{n}")))),
            };
            let (cache, key) = (self.cache.clone(), Key { cloud: n % clouds, scope });
            crowd.spawn(async move {
                match cache.snapshot(&key) {
                    Some(token) => cache.replace(&key, &token.id).await.is_ok(),
                    None => cache.current(&key).await.is_ok(),
                }
            });
        }
        crowd.join_all().await.into_iter().filter(|served| *served).count()
    }

    /// The most wrong passwords in a row, and of the same.
    fn most_rejected(&self) -> (usize, usize) {
        *self.keystone.most_rejected.lock().unwrap()
    }

    fn state(&self) -> &'static str {
        self.cache.status(0).breaker()
    }
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_tried_twice_in_weeks_of_load() {
    for clouds in [1, 3] {
        let fixture = Fixture::of_clouds(clouds);
        fixture.keystone.more.store(50, Ordering::Relaxed);
        fixture.keystone.close(WRONG);
        fixture.cache.warm();
        for _ in 0..20 {
            assert_eq!(fixture.load().await, 0);
            seconds(90).await;
        }
        for _ in 0..10 {
            assert_eq!(fixture.load().await, 0);
            seconds(2 * DAY).await;
        }
        assert_eq!(fixture.keystone.logins(), 2, "{clouds} clouds");
        assert_eq!((fixture.most_rejected(), fixture.state()), ((2, 2), "stopped"));
    }
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_password_that_turns_wrong_amid_the_load_is_tried_twice() {
    for (clouds, latency) in [(1, 0), (1, 300), (3, 0), (3, 300)] {
        let fixture = Fixture::of_clouds(clouds);
        fixture.keystone.more.store(50, Ordering::Relaxed);
        *fixture.keystone.latency.lock().unwrap() = Duration::from_millis(latency);
        assert!(fixture.load().await > 0);
        let cache = fixture.cache.clone();
        let turning = async {
            // Amid logins that were sent with what was right a moment ago.
            sleep(Duration::from_millis(1500)).await;
            fixture.keystone.close(WRONG);
        };
        tokio::join!(turning, fixture.load(), fixture.load());
        drop(cache);
        for _ in 0..10 {
            fixture.load().await;
            seconds(3600).await;
        }
        assert_eq!(fixture.most_rejected(), (2, 2), "{clouds} clouds, {latency} ms");
    }
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn reloads_do_not_add_to_the_wrong_passwords() {
    let mut fixture = Fixture::of_clouds(2);
    fixture.keystone.close(WRONG);
    fixture.cache.warm();
    for round in 0..60 {
        fixture.load().await;
        // Sometimes there is no cloud of this user at all.
        let heir = fixture.anew(round % 4, Protection::default());
        // Sometimes no cloud is what it was.
        let was_there = !fixture.cache.shared.clouds.is_empty() && !heir.shared.clouds.is_empty();
        let same: &[(usize, usize)] = if was_there && round % 2 == 0 { &[(0, 0)] } else { &[] };
        heir.adopt(&fixture.cache, same);
        heir.warm();
        fixture.cache = heir;
        seconds(round as u64 * 60).await;
    }
    assert_eq!(fixture.most_rejected(), (2, 2));

    fixture.keystone.correct();
    seconds(2).await;
    assert!(fixture.current().await.is_ok(), "{:?}", fixture.cache.status(0));
    assert_eq!(fixture.keystone.logins(), 2 + fixture.cache.shared.clouds.len());
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn who_lets_keystone_reject_one_more_gets_one_more_try_for_the_same_password() {
    for clouds in [1, 3] {
        let mut fixture = Fixture::of_clouds(clouds);
        let same: Vec<_> = (0..clouds).map(|cloud| (cloud, cloud)).collect();
        let reload = |fixture: &mut Fixture, rejections| {
            let protection = Protection { rejections: Some(rejections), ..Protection::default() };
            let heir = fixture.anew(clouds, protection);
            heir.adopt(&fixture.cache, &same);
            heir.warm();
            fixture.cache = heir;
        };
        fixture.keystone.close(WRONG);
        fixture.load().await;
        seconds(DAY).await;
        fixture.load().await;
        assert_eq!((fixture.most_rejected(), fixture.state()), ((2, 2), "stopped"));
        // Nobody has to ask for it, and no reload after that is another one.
        for (most, rejected) in [(3, 3), (3, 3), (2, 3), (3, 3), (4, 4), (4, 4)] {
            reload(&mut fixture, most);
            seconds(2).await;
            assert_eq!(fixture.most_rejected(), (rejected, rejected));
            fixture.load().await;
            seconds(DAY).await;
            fixture.load().await;
        }
        assert_eq!((fixture.most_rejected(), fixture.state()), ((4, 4), "stopped"));
        // The user is enabled again.
        fixture.keystone.closed.lock().unwrap().clear();
        seconds(10 * DAY).await;
        assert_eq!(fixture.state(), "stopped");
        let before = fixture.keystone.logins();
        reload(&mut fixture, 5);
        seconds(2).await;
        assert!(fixture.cache.snapshot(&own()).is_some(), "nobody had to ask");
        assert!(fixture.keystone.logins() > before);
        reload(&mut fixture, 2);
        assert_eq!((fixture.cache.status(0).rejections, fixture.state()), ((0, Some(2)), "closed"));
    }
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_corrected_password_is_tried_at_once() {
    let fixture = Fixture::new(3600);
    fixture.keystone.close(WRONG);
    fixture.current().await.unwrap_err();
    assert_eq!(fixture.state(), "open");
    assert_eq!(fixture.cache.status(0).rejections, (1, Some(1)));
    seconds(2).await;
    fixture.keystone.correct();
    seconds(2).await;
    assert!(fixture.cache.snapshot(&own()).is_some(), "nobody had to ask");
    assert_eq!((fixture.keystone.logins(), fixture.state()), (2, "closed"));

    // The same when it was given up long ago.
    fixture.keystone.close(WRONG);
    seconds(10 * DAY).await;
    assert_eq!((fixture.most_rejected(), fixture.state()), ((2, 2), "stopped"));
    fixture.keystone.correct();
    seconds(2).await;
    assert!(fixture.current().await.is_ok());
    assert_eq!((fixture.cache.status(0).rejections, fixture.state()), ((0, Some(2)), "closed"));
}

#[tokio::test(start_paused = true)]
async fn a_password_that_is_rotated_amid_a_login_costs_that_login_and_nobody_waits() {
    let fixture = Fixture::with_ten_projects().await;
    let before = fixture.keystone.logins();
    *fixture.keystone.latency.lock().unwrap() = Duration::from_millis(500);
    let rotating = async {
        sleep(Duration::from_millis(200)).await;
        fixture.keystone.correct();
    };
    let (answers, ()) = tokio::join!(fixture.refuse_everything(), rotating);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fixture.keystone.logins(), before + 12);
    assert_eq!((fixture.most_rejected(), fixture.state()), ((1, 1), "closed"));
    let paused = |event: &Event| matches!(event, Event::Paused { .. });
    assert!(!fixture.events.lock().unwrap().iter().any(paused));
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn wrong_passwords_one_after_the_other_have_a_limit_too() {
    let fixture = Fixture::new(3600);
    fixture.keystone.close(WRONG);
    for _ in 0..100 {
        fixture.current().await.unwrap_err();
        seconds(600).await;
        fixture.keystone.password.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(fixture.most_rejected(), (4, 2));
    // A reload is the operator's word that it is another one now.
    let heir = fixture.anew(1, Protection::default());
    fixture.keystone.correct();
    heir.adopt(&fixture.cache, &[(0, 0)]);
    seconds(2).await;
    assert!(heir.snapshot(&own()).is_some());
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_user_without_a_role_has_the_right_password_and_is_served_when_the_role_is_there() {
    let fixture = Fixture::of_scope(
        Duration::from_secs(3600),
        password(),
        Scope::Project(Project::Id("p2".to_owned())),
    );
    fixture.keystone.close("p2");
    for _ in 0..50 {
        fixture.current().await.unwrap_err();
        seconds(3600).await;
    }
    assert_eq!(fixture.most_rejected(), (0, 0), "none of these passwords was wrong");
    assert!(!fixture.cache.status(0).breaker_open);
    fixture.keystone.closed.lock().unwrap().clear();
    seconds(400).await;
    assert!(fixture.current().await.is_ok());
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn without_a_limit_a_wrong_password_is_tried_for_ever_and_seldom() {
    let mut fixture = Fixture::new(3600);
    fixture.cache = fixture.anew(1, Protection { rejections: None, ..Protection::default() });
    fixture.keystone.close(WRONG);
    fixture.current().await.unwrap_err();
    seconds(3600).await;
    assert!((10..=14).contains(&fixture.keystone.logins()), "{}", fixture.keystone.logins());
    assert_eq!(fixture.state(), "open");
    fixture.keystone.closed.lock().unwrap().clear();
    seconds(400).await;
    assert!(fixture.current().await.is_ok());
}

#[test]
fn what_is_no_password_locks_nobody_out() {
    let error = AuthError::Rejected { status: 401, message: None };
    for (method, limited) in [
        (password(), true),
        (Method::Token(Secret::new("t").into()), false),
        (
            Method::ApplicationCredential {
                which: ApplicationCredential::Id("a".to_owned()),
                secret: Secret::new("s").into(),
            },
            false,
        ),
    ] {
        let account = Account::of(&config(method, Scope::Default));
        let shown = vec![Secret::new("s3cret")];
        for _ in 0..2 {
            assert!(account.may_show(&shown, Some(2)).is_ok());
            account.reject(&shown, &error);
        }
        assert_eq!(account.may_show(&shown, Some(2)).is_err(), limited);
        assert!(account.may_show(&vec![Secret::new("another")], Some(2)).is_ok());
        account.accept();
        assert!(account.may_show(&shown, Some(2)).is_ok());
    }
}
