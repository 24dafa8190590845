//! Scopes that clients ask for: the cloud's own in other words, others, and made-up ones.

use super::*;

fn exactly(scope: Scope) -> Key {
    Key { cloud: 0, scope: Asked::Exactly(scope) }
}

fn by_id(id: &str) -> Scope {
    Scope::Project(Project::Id(id.to_owned()))
}

fn by_name(name: &str, domain: Domain) -> Scope {
    Scope::Project(Project::Name { name: name.to_owned(), domain: Some(domain) })
}

fn domain_id(id: &str) -> Domain {
    Domain::Id(id.to_owned())
}

fn domain_name(name: &str) -> Domain {
    Domain::Name(name.to_owned())
}

impl Fixture {
    async fn exactly(&self, scope: &Scope) -> Result<String, Arc<AuthError>> {
        self.cache.current(&exactly(scope.clone())).await.map(id)
    }

    /// Asks for so many projects that do not exist, all at once; what came of it.
    async fn made_up(&self, names: std::ops::Range<usize>) -> Vec<Arc<AuthError>> {
        let mut crowd = JoinSet::new();
        for n in names {
            let cache = self.cache.clone();
            self.keystone.close(&format!("x{n}"));
            crowd.spawn(async move { cache.current(&exactly(by_id(&format!("x{n}")))).await.unwrap_err() });
        }
        crowd.join_all().await
    }
}

#[track_caller]
fn check_refused(error: &AuthError) {
    assert!(matches!(error.root(), AuthError::ScopeRefused { status: 401, .. }), "{error:?}");
    assert!(!error.is_rejection());
}

async fn check_own(own: Scope, same: &[Scope], other: &[Scope]) {
    let fixture = Fixture::of_scope(Duration::from_secs(3600), password(), own.clone());
    for scope in same {
        assert_eq!(fixture.exactly(scope).await.unwrap(), "t1", "{own:?}: {scope:?}");
        assert!(fixture.cache.snapshot(&exactly(scope.clone())).is_some(), "{own:?}: {scope:?}");
    }
    assert_eq!(fixture.keystone.logins(), 1, "{own:?}");
    for scope in other {
        assert!(fixture.cache.snapshot(&exactly(scope.clone())).is_none(), "{own:?}: {scope:?}");
        assert_ne!(fixture.exactly(scope).await.unwrap(), "t1", "{own:?}: {scope:?}");
        assert!(fixture.cache.snapshot(&exactly(scope.clone())).is_some(), "{own:?}: {scope:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_clouds_own_scope_in_other_words_shares_its_token() {
    let names = [
        by_id("p1"),
        by_name("demo", domain_id("default")),
        by_name("demo", domain_name("DEFAULT")),
        Scope::Project(Project::Name { name: "demo".to_owned(), domain: None }),
    ];
    let others = [by_id("p2"), by_name("lab", domain_id("d2")), Scope::System, Scope::Unscoped];
    check_own(Scope::Default, &[&[Scope::Default], &names[..]].concat(), &others).await;
    check_own(names[2].clone(), &names, &[&[Scope::Default], &others[..]].concat()).await;
    let domains = [Scope::Domain(domain_id("d2")), Scope::Domain(domain_name("D2"))];
    let rest = [Scope::Domain(domain_id("d3")), Scope::System, Scope::Unscoped, by_id("d2"), Scope::Default];
    check_own(domains[0].clone(), &domains, &rest).await;
    check_own(domains[1].clone(), &domains, &rest).await;
    check_own(Scope::System, &[Scope::System], &[Scope::Unscoped, by_id("p1"), domains[0].clone()]).await;
    check_own(Scope::Unscoped, &[Scope::Unscoped], &[Scope::System, by_id("p1"), domains[0].clone()]).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_and_an_id_of_a_project_end_in_one_token() {
    let fixture = Fixture::new(3600);
    let lab = by_name("lab", domain_id("default"));
    assert_eq!(fixture.exactly(&lab).await.unwrap(), "t2");
    assert_eq!(fixture.exactly(&by_id("p2")).await.unwrap(), "t2");
    assert_eq!(fixture.of("p2").await.unwrap(), "t2");
    assert_eq!(fixture.exactly(&by_id("p4")).await.unwrap(), "t3");
    assert_eq!(fixture.exactly(&by_name("far", domain_name("D2"))).await.unwrap(), "t3");
    fixture.cache.projects(0).await.unwrap();
    assert_eq!(fixture.of("lab").await.unwrap(), "t2");
    assert_eq!(fixture.keystone.logins(), 3);
    assert_eq!(id(fixture.cache.snapshot(&exactly(by_id("p2"))).unwrap()), "t2");
    // They are renewed together, too.
    let used = TokenId::new("t2").unwrap();
    let replaced = fixture.cache.replace(&exactly(by_id("p2")), &used).await.unwrap();
    assert_eq!(fixture.exactly(&lab).await.unwrap(), id(replaced));
    assert_eq!(fixture.keystone.logins(), 4);
    // By a name alone it is still to be found out which project is meant.
    assert!(matches!(*fixture.of("far").await.unwrap_err(), AuthError::AmbiguousProject { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_project_that_got_another_name_no_longer_answers_to_the_old_one() {
    let fixture = Fixture::new(3600);
    let lab = by_name("lab", domain_id("default"));
    assert_eq!(fixture.exactly(&by_id("p2")).await.unwrap(), "t2");
    assert_eq!(fixture.exactly(&lab).await.unwrap(), "t2");
    {
        let mut named = fixture.keystone.named.lock().unwrap();
        named[1][1] = "old-lab";
        named.push(["p7", "lab", "default"]);
    }
    let used = TokenId::new("t2").unwrap();
    let renewed = fixture.cache.replace(&exactly(by_id("p2")), &used).await.unwrap();
    assert_eq!(renewed.project.as_ref().unwrap().name, "old-lab");
    assert!(fixture.cache.snapshot(&exactly(lab.clone())).is_none());
    let token = fixture.cache.current(&exactly(lab)).await.unwrap();
    assert_eq!(token.project.as_ref().unwrap().id, "p7");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_any_scope_are_kept_and_renewed_while_they_are_used() {
    let fixture = Fixture::new(3600);
    let scopes = [Scope::System, Scope::Unscoped, Scope::Domain(domain_id("d2")), by_id("p3")];
    for scope in &scopes {
        fixture.exactly(scope).await.unwrap();
        fixture.exactly(scope).await.unwrap();
    }
    assert_eq!(fixture.keystone.logins(), 5);
    seconds(3600).await;
    assert_eq!(fixture.keystone.logins(), 10, "each was used, so each was renewed");
    seconds(10 * 3600).await;
    let others =
        fixture.keystone.logins.lock().unwrap().iter().filter(|scope| **scope != Scope::Default).count();
    assert_eq!(others, 8, "and not again");
    for scope in scopes {
        assert!(fixture.cache.snapshot(&exactly(scope)).is_none(), "it is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_keystone_refuses_is_its_answer_and_nobody_elses_trouble() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    seconds(60).await;
    let error = fixture.made_up(0..1).await.pop().unwrap();
    check_refused(&error);
    assert_eq!(fixture.keystone.logins(), 3, "one for the scope, one to see what the no is about");
    for _ in 0..100 {
        let error = fixture.exactly(&by_id("x0")).await.unwrap_err();
        check_refused(&error);
        assert!(matches!(*error, AuthError::Waiting { .. }));
    }
    assert_eq!(fixture.keystone.logins(), 3);
    let status = fixture.cache.status(0);
    assert!(!status.breaker_open && status.failure.is_none());
    assert_eq!(fixture.of("lab").await.unwrap(), "t4");
    // As soon as there is a role, there is a token.
    fixture.keystone.closed.lock().unwrap().clear();
    seconds(6).await;
    assert_eq!(fixture.exactly(&by_id("x0")).await.unwrap(), "t5");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_no_refusal_of_a_scope() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    seconds(60).await;
    fixture.keystone.close(WRONG);
    let errors = fixture.made_up(0..20).await;
    assert!(errors.iter().all(|error| error.is_rejection()), "{errors:?}");
    assert_eq!(fixture.keystone.logins(), 3);
    assert!(fixture.cache.status(0).breaker_open);
}

#[tokio::test(start_paused = true)]
async fn made_up_scopes_cost_few_questions_and_push_no_good_one_out() {
    let fixture = Fixture::with_ten_projects().await;
    let before = fixture.keystone.logins();
    let errors = fixture.made_up(0..1500).await;
    let refused =
        errors.iter().filter(|error| matches!(error.root(), AuthError::ScopeRefused { .. })).count();
    let turned_away =
        errors.iter().filter(|error| matches!(***error, AuthError::TooManyScopes { .. })).count();
    assert_eq!(refused + turned_away, 1500);
    assert!((10..=12).contains(&refused), "{refused}");
    let cost = fixture.keystone.logins() - before;
    assert!(cost <= 2 * refused, "{cost} questions");

    fixture.cache.shared.tried.run_pending_tasks();
    fixture.cache.shared.scopes.run_pending_tasks();
    assert!(fixture.cache.shared.tried.entry_count() <= MOST_SCOPES);
    for n in 0..10 {
        assert!(fixture.cache.snapshot(&key(&format!("q{n}"))).is_some());
    }
    assert_eq!(fixture.cache.shared.scopes.entry_count(), 10);
    assert!(fixture.current().await.is_ok() && !fixture.cache.status(0).breaker_open);

    // Whoever has a scope goes on having it, and somebody with a good new one waits a little.
    let used = fixture.cache.snapshot(&key("q0")).unwrap();
    fixture.cache.replace(&key("q0"), &used.id).await.unwrap();
    // What Keystone lists is not made up, though it be the first time that somebody asks for it.
    fixture.of("p3").await.unwrap();
    fixture.exactly(&by_id("p5")).await.unwrap();
    seconds(70).await;
    assert!(!fixture.made_up(2000..2500).await.is_empty());
    assert!(
        fixture.exactly(&by_id("p4")).await.unwrap_err().retry_after().unwrap() <= Duration::from_secs(6)
    );
    seconds(6).await;
    fixture.exactly(&by_id("p4")).await.unwrap();
    // A minute later it is ten more.
    seconds(60).await;
    let before = fixture.keystone.logins();
    fixture.made_up(5000..6000).await;
    let cost = fixture.keystone.logins() - before;
    assert!((10..=24).contains(&cost), "{cost} questions");
}

#[tokio::test(start_paused = true)]
async fn what_is_longer_than_any_name_is_neither_asked_for_nor_kept() {
    let fixture = Fixture::new(3600);
    let long = "x".repeat(1025);
    for scope in [
        by_id(&long),
        by_name(&long, domain_id("default")),
        by_name("lab", domain_name(&long)),
        Scope::Domain(domain_id(&long)),
    ] {
        check_refused(&fixture.exactly(&scope).await.unwrap_err());
    }
    fixture.cache.shared.tried.run_pending_tasks();
    assert_eq!((fixture.keystone.logins(), fixture.cache.shared.tried.entry_count()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn any_number_of_good_scopes_may_be_asked_for_at_once() {
    let fixture = Fixture::new(3600);
    *fixture.keystone.latency.lock().unwrap() = Duration::from_millis(10);
    let mut crowd = JoinSet::new();
    for n in 0..100 {
        let cache = fixture.cache.clone();
        crowd.spawn(async move { cache.current(&exactly(by_id(&format!("q{n}")))).await.map(id) });
    }
    assert!(crowd.join_all().await.iter().all(Result::is_ok));
    assert_eq!(fixture.keystone.logins(), 101);
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_was_taken_back_is_not_asked_for_behind_everybodys_back() {
    let fixture = Fixture::new(3600);
    fixture.exactly(&by_id("p2")).await.unwrap();
    fixture.keystone.close("p2");
    seconds(3 * 3600).await;
    let asked = || {
        let logins = fixture.keystone.logins.lock().unwrap();
        logins.iter().filter(|scope| **scope == by_id("p2")).count()
    };
    assert_eq!(asked(), 2, "its renewal was refused, and that was that");
    assert!(fixture.cache.snapshot(&exactly(by_id("p2"))).is_none());
    assert!(!fixture.cache.status(0).breaker_open);
    check_refused(&fixture.exactly(&by_id("p2")).await.unwrap_err());
    assert_eq!(asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn two_projects_that_are_gone_at_once_do_not_look_like_a_wrong_password() {
    let fixture = Fixture::new(3600);
    fixture.exactly(&by_id("p2")).await.unwrap();
    fixture.exactly(&by_id("p3")).await.unwrap();
    fixture.exactly(&by_id("p4")).await.unwrap();
    for project in ["p2", "p3", "p4"] {
        fixture.keystone.close(project);
    }
    seconds(60).await;
    for project in ["p2", "p3", "p4"] {
        let scope = exactly(by_id(project));
        let used = fixture.cache.snapshot(&scope).unwrap();
        check_refused(&fixture.cache.replace(&scope, &used.id).await.unwrap_err());
    }
    assert!(!fixture.cache.status(0).breaker_open);
    assert!(fixture.exactly(&by_id("p5")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn credentials_with_a_scope_of_their_own_ask_for_no_other() {
    let which = ApplicationCredential::Id("a".to_owned());
    let method = Method::ApplicationCredential { which, secret: Secret::new("s").into() };
    let fixture = Fixture::with_method(3600, method);
    for same in [Scope::Default, by_id("p1"), by_name("demo", domain_id("default"))] {
        assert_eq!(fixture.exactly(&same).await.unwrap(), "t1");
    }
    for other in [by_id("p2"), Scope::Unscoped, Scope::System, Scope::Domain(domain_id("d2"))] {
        let error = fixture.exactly(&other).await.unwrap_err();
        assert!(matches!(*error, AuthError::ScopeFixed { .. }), "{error:?}");
    }
    assert_eq!(fixture.keystone.logins(), 1);

    let endpoint = BaseUrl::parse("http://127.0.0.1:6385").unwrap();
    let auth = Auth::Fixed { endpoint, token: Secret::new("fixed").into() };
    let standing = Source::Standing(Box::new(Standing::new(&auth).unwrap()));
    let clouds = vec![(Config { auth, ..config(password(), Scope::Default) }, standing)];
    let cache = TokenCache::with_sources(
        clouds,
        None,
        DEADLINE,
        Protection::default(),
        Handle::current(),
        Arc::new(|_: &Event| {}),
    );
    let error = cache.current(&exactly(by_id("p1"))).await.unwrap_err();
    assert!(matches!(*error, AuthError::ScopeFixed { .. }), "{error:?}");
    assert!(cache.projects(0).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_identity_v2_has_no_word_for_is_refused_as_a_scope() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    for _ in 0..30 {
        fixture.keystone.fail(1, AuthError::NotInV2 { what: "domain scope" });
        check_refused(&fixture.exactly(&Scope::Domain(domain_id("d2"))).await.unwrap_err());
        seconds(60).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_list_of_projects_is_asked_for_once_for_everybody_and_kept_for_a_moment() {
    let fixture = Fixture::new(3600);
    let lists = || fixture.keystone.lists.load(Ordering::Relaxed);
    let mut crowd = JoinSet::new();
    for _ in 0..100 {
        let cache = fixture.cache.clone();
        crowd.spawn(async move { cache.projects(0).await.unwrap().len() });
    }
    assert!(crowd.join_all().await.into_iter().all(|length| length == 6));
    assert_eq!((lists(), fixture.keystone.logins()), (1, 1));
    fixture.of("lab").await.unwrap();
    assert_eq!(lists(), 1, "a project is looked up in the same list");
    seconds(5).await;
    let projects = fixture.cache.projects(0).await.unwrap();
    assert_eq!((projects[1].project.name.as_str(), lists()), ("lab", 2));
    let listed = |event: &&Event| matches!(event, Event::Listed { cloud: 0, outcome: Outcome::Ok });
    assert_eq!(fixture.events.lock().unwrap().iter().filter(listed).count(), 2);
    assert!(matches!(*fixture.cache.projects(7).await.unwrap_err(), AuthError::NoSuchCloud));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_can_not_be_had_is_not_asked_for_again_and_again() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    fixture.keystone.refused_lists.store(1000, Ordering::Relaxed);
    for _ in 0..100 {
        fixture.cache.projects(0).await.unwrap_err();
    }
    assert_eq!(fixture.keystone.lists.load(Ordering::Relaxed), 2, "once more with a new token");
    fixture.keystone.refused_lists.store(0, Ordering::Relaxed);
    seconds(5).await;
    fixture.cache.projects(0).await.unwrap();

    // While Keystone is left alone, so it is with this.
    seconds(60).await;
    fixture.keystone.down.store(true, Ordering::Relaxed);
    assert!(fixture.exactly(&by_id("p2")).await.is_err());
    let before = fixture.keystone.lists.load(Ordering::Relaxed);
    let error = fixture.cache.projects(0).await.unwrap_err();
    assert!(matches!(*error, AuthError::Waiting { .. }), "{error:?}");
    assert_eq!(fixture.keystone.lists.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_scopes_and_what_was_refused() {
    let fixture = Fixture::new(3600);
    let lab = by_name("lab", domain_id("default"));
    fixture.exactly(&by_id("p2")).await.unwrap();
    fixture.exactly(&lab).await.unwrap();
    fixture.exactly(&Scope::System).await.unwrap();
    check_refused(&fixture.made_up(0..1).await[0]);
    let before = fixture.keystone.logins();

    let source = Source::Keystone(Box::new(Arc::clone(&fixture.keystone)));
    let other =
        (config(password(), Scope::Unscoped), Source::Keystone(Box::new(Arc::clone(&fixture.keystone))));
    let clouds = vec![other, (config(password(), Scope::Default), source)];
    let heir = TokenCache::with_sources(
        clouds,
        None,
        DEADLINE,
        Protection::default(),
        Handle::current(),
        Arc::new(|_: &Event| {}),
    );
    heir.adopt(&fixture.cache, &[(0, 1)]);
    let moved = |scope: &Scope| Key { cloud: 1, scope: Asked::Exactly(scope.clone()) };
    for scope in [by_id("p2"), lab.clone(), Scope::System, by_id("p1")] {
        assert!(heir.snapshot(&moved(&scope)).is_some(), "{scope:?}");
        assert!(heir.snapshot(&exactly(scope.clone())).is_none(), "{scope:?}");
    }
    check_refused(&heir.current(&moved(&by_id("x0"))).await.unwrap_err());
    assert_eq!(fixture.keystone.logins(), before);
    // A token that has two names is renewed once.
    let used = heir.snapshot(&moved(&lab)).unwrap();
    let renewed = heir.replace(&moved(&by_id("p2")), &used.id).await.map(id).unwrap();
    assert_eq!(heir.current(&moved(&lab)).await.map(id).unwrap(), renewed);
    assert_eq!(fixture.keystone.logins(), before + 1);
}
