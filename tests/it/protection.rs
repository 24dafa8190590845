//! What Keystone is spared, and what a changed secret needs: nothing. Keystone locks this user out after three wrong
//! passwords in a row, and counts them as the real one does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use keyway::config::{Config, Env, Overrides};
use keyway::demo::{Cloud, PASSWORD};
use keyway::keystone::{self, Key, Protection, Secret};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::{Connection, TestKeyway, cloud, cloud_variables, eventually, refusing, request};

/// So many wrong passwords in a row lock the user out.
const LOCKOUT: u32 = 3;

/// A cloud that locks its user out, and a directory for what keyway reads.
struct Lab {
    cloud: Cloud,
    directory: TempDir,
}

impl Lab {
    async fn start() -> Self {
        let cloud = cloud().await;
        cloud.lock_out_after(LOCKOUT);
        Self { cloud, directory: tempfile::tempdir().expect("a directory for temporary files") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a text into a file at once, as whoever rotates a password should.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(new, self.path(name)).expect("a file");
    }

    /// The cloud as its variables say, with the password by one of these.
    fn config(&self, password: &str) -> keystone::Config {
        let home = self.directory.path();
        let mut variables: Vec<_> = cloud_variables(&self.cloud).into_iter().collect();
        variables.retain(|(name, _)| *name != "OS_PASSWORD");
        let (name, value) = password.split_once('=').expect("a variable");
        let mut variables: Vec<(String, String)> =
            variables.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        variables.push((name.to_owned(), value.replace("DIR", &home.display().to_string())));
        variables.push(("CREDENTIALS_DIRECTORY".to_owned(), home.display().to_string()));
        let env = Env::new(variables, home).with_root(home);
        let config =
            Config::load(&Overrides::default(), &env).unwrap_or_else(|problems| panic!("{problems}"));
        config.clouds.into_iter().next().expect("one cloud")
    }
}

/// A schedule that a test can wait for.
fn quick(config: &mut Config) {
    let (short, long) = (Duration::from_millis(100), Duration::from_millis(300));
    config.protection = Protection { pause: (short, long), backoff: (short, long), ..Protection::default() };
}

/// The cloud under several names, with this password.
fn clouds(lab: &Lab, names: &[&str], password: &str) -> Vec<keystone::Config> {
    let named = |name: &&str| {
        let mut config = lab.cloud.keystone_config();
        (**name).clone_into(&mut config.name);
        let keystone::Auth::Identity(identity) = &mut config.auth else {
            unreachable!("there is a Keystone")
        };
        let keystone::Method::Password { password: source, .. } = &mut identity.method else {
            unreachable!()
        };
        *source = Secret::new(password).into();
        config
    };
    names.iter().map(named).collect()
}

/// What a reload reads.
fn reloaded(lab: &Lab, served: &[&str], password: &str) -> Config {
    let env = Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent");
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".to_owned()),
        admin: Some("127.0.0.1:0".to_owned()),
        workers: Some("2".to_owned()),
        ..Overrides::default()
    };
    let mut config = Config::load_without_clouds(&overrides, &env).expect("defaults are right");
    quick(&mut config);
    config.clouds = clouds(lab, served, password);
    config
}

/// Several hundred requests at once for several clouds, projects and scopes; their statuses.
async fn load(keyway: &TestKeyway) -> Vec<u16> {
    let mut tasks = JoinSet::new();
    for n in 0..400 {
        let listen = keyway.listen();
        let cloud = ["a", "b", "c"][n % 3];
        let path = match n % 4 {
            0 => "/compute/servers".to_owned(),
            1 => format!("/cloud/{cloud}/compute/servers"),
            2 => format!("/cloud/{cloud}/project/other/compute/servers"),
            _ => format!("/cloud/{cloud}/project/p{n}/image/images"),
        };
        tasks.spawn(async move {
            Connection::open(listen).await.send(request(Method::GET, &path, &[], "")).await.status
        });
    }
    tasks.join_all().await
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_locks_nobody_out_whatever_the_load() {
    let lab = Lab::start().await;
    let names = ["a", "b", "c"];
    let keyway = TestKeyway::cold(clouds(&lab, &names, "wr0ng-password"), quick);
    let config = |password: &str, served: &[&str]| reloaded(&lab, served, password);
    for round in 0..12 {
        let statuses = load(&keyway).await;
        assert!(statuses.iter().all(|status| [502, 404].contains(status)), "{statuses:?}");
        // Clouds come and go, and come back.
        assert!(keyway.app().reload(Ok(config("wr0ng-password", &names[..1 + round % 3]))));
        // Longer than all pauses.
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    assert_eq!(lab.cloud.wrong_passwords(), 2);
    let status = &keyway.status().await["clouds"][0];
    assert_eq!((&status["breaker"], &status["rejections"]), (&"stopped".into(), &2.into()), "{status}");
    assert_eq!(status["rejections_left"], 0);
    assert_eq!(keyway.metric(r#"keyway_token_breaker_state{cloud="a",state="stopped"}"#).await, 1.0);
    assert_eq!(keyway.metric(r#"keyway_token_rejections{cloud="a"}"#).await, 2.0);
    let ready = keyway.admin_get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("not tried again until they change"), "{}", ready.text());
    assert!(!ready.text().contains("wr0ng"), "{}", ready.text());

    // The right one is tried at once, and nobody is locked out.
    assert!(keyway.app().reload(Ok(config(PASSWORD, &names))));
    keyway.logged_in().await;
    assert_eq!(keyway.get("/cloud/c/project/other/compute/servers").await.status, 200);
    assert_eq!(lab.cloud.wrong_passwords(), 2);
    let status = &keyway.status().await["clouds"][0];
    assert_eq!((&status["breaker"], &status["rejections"]), (&"closed".into(), &0.into()), "{status}");
    assert_eq!(keyway.admin_get("/readyz").await.status, 200);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_password_that_was_given_up_has_one_more_try_when_the_operator_says_so() {
    let lab = Lab::start().await;
    let keyway = TestKeyway::cold(clouds(&lab, &["a"], PASSWORD), quick);
    keyway.logged_in().await;
    // The user is disabled for a while.
    lab.cloud.set_password("something-else");
    lab.cloud.revoke_all();
    eventually("the end of its tries", async || {
        keyway.get("/compute/servers").await;
        (keyway.status().await["clouds"][0]["breaker"] == "stopped").then_some(())
    })
    .await;
    lab.cloud.set_password(PASSWORD);
    let config = |rejections| {
        let mut config = reloaded(&lab, &["a"], PASSWORD);
        config.protection.rejections = Some(rejections);
        config
    };
    assert!(keyway.app().reload(Ok(config(2))));
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_ne!(
        keyway.get("/compute/servers").await.status,
        200,
        "a reload alone is no word about the password"
    );
    let error = keyway.status().await["clouds"][0]["error"].to_string();
    assert!(error.contains("raise rejections in [keystone] by one and reload keyway"), "{error}");
    assert_eq!(lab.cloud.wrong_passwords(), 2);

    assert!(keyway.app().reload(Ok(config(3))));
    eventually("the login", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
        .await;
    assert_eq!(lab.cloud.wrong_passwords(), 2);
    assert_eq!(keyway.metric(r#"keyway_token_rejections{cloud="a"}"#).await, 0.0);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_turns_wrong_under_load_locks_nobody_out() {
    let lab = Lab::start().await;
    let keyway = TestKeyway::cold(clouds(&lab, &["a", "b", "c"], PASSWORD), quick);
    keyway.logged_in().await;
    load(&keyway).await;
    for _ in 0..5 {
        let turning = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            lab.cloud.set_password("something-else");
            lab.cloud.revoke_all();
        };
        tokio::join!(load(&keyway), turning);
        load(&keyway).await;
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    assert!(lab.cloud.wrong_passwords() <= 2, "{}", lab.cloud.wrong_passwords());
    // As long as nobody corrects it, that is all.
    lab.cloud.set_password(PASSWORD);
    keyway.get("/compute/servers").await;
    assert!(lab.cloud.wrong_passwords() <= 2);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_rotated_in_its_file_needs_no_restart() {
    for variable in ["OS_PASSWORD_FILE=DIR/password", "OS_PASSWORD_CREDENTIAL=password"] {
        let lab = Lab::start().await;
        lab.write("password", &format!("{PASSWORD}\n"));
        let keyway = TestKeyway::cold(vec![lab.config(variable)], |_| {});
        keyway.logged_in().await;

        // The file first: the next login has it.
        lab.write("password", "second-password\n");
        lab.cloud.set_password("second-password");
        lab.cloud.revoke_all();
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        assert_eq!(lab.cloud.wrong_passwords(), 0);

        // Keystone first: the breaker is open until the file has it too.
        lab.cloud.set_password("third-password");
        lab.cloud.revoke_all();
        keyway.get("/compute/servers").await;
        assert_eq!(keyway.status().await["clouds"][0]["breaker_open"], true);
        lab.write("password", "third-password\n");
        eventually("the new password", async || {
            (keyway.get("/compute/servers").await.status == 200).then_some(())
        })
        .await;
        assert!((1..LOCKOUT).contains(&lab.cloud.wrong_passwords()));
        assert_eq!(keyway.status().await["clouds"][0]["breaker"], "closed");
    }
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_asked_again_when_its_password_is_rejected_and_only_then() {
    let lab = Lab::start().await;
    lab.write("password", PASSWORD);
    let variable = "OS_PASSWORD_COMMAND=/bin/sh -c 'echo >> \"$0\"/runs; exec /bin/cat \"$0\"/password' DIR";
    let keyway = TestKeyway::cold(vec![lab.config(variable)], quick);
    keyway.logged_in().await;
    let runs = || fs::read_to_string(lab.path("runs")).expect("it was run").lines().count();
    for _ in 0..3 {
        lab.cloud.revoke_all();
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
    assert_eq!((runs(), lab.cloud.wrong_passwords()), (1, 0));

    lab.write("password", "second-password");
    lab.cloud.set_password("second-password");
    lab.cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200, "nobody has to wait");
    assert_eq!((runs(), lab.cloud.wrong_passwords()), (2, 1));
    assert_eq!(keyway.status().await["clouds"][0]["breaker"], "closed");

    // What it prints is too late: it is asked again at the breaker's pace, and Keystone is not.
    lab.cloud.set_password("third-password");
    lab.cloud.revoke_all();
    keyway.get("/compute/servers").await;
    eventually("more questions", async || (runs() > 5).then_some(())).await;
    assert_eq!(lab.cloud.wrong_passwords(), 2);
    lab.write("password", "third-password");
    eventually("the new password", async || {
        (keyway.get("/compute/servers").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(lab.cloud.wrong_passwords(), 2);
}

// Promises 65, 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_to_be_had_leaves_the_token_in_use_and_is_told() {
    let lab = Lab::start().await;
    lab.write("password", PASSWORD);
    let keyway = TestKeyway::cold(vec![lab.config("OS_PASSWORD_FILE=DIR/password")], quick);
    keyway.logged_in().await;
    let used = keyway.token().await;
    fs::remove_file(lab.path("password")).expect("it is there");
    lab.cloud.set_trouble("compute", refusing());
    keyway.get("/compute/servers").await.message(503, "no_secret");
    lab.cloud.set_trouble("compute", keyway::demo::Trouble::default());
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.token().await, used);
    let status = &keyway.status().await["clouds"][0];
    let error = status["error"].as_str().expect("there is one");
    assert!(error.contains("password cannot be read"), "{error}");
    assert_eq!((&status["breaker"], lab.cloud.wrong_passwords()), (&"backing_off".into(), 0));
    assert_eq!(keyway.admin_get("/readyz").await.status, 200);

    lab.write("password", PASSWORD);
    eventually("a new token", async || {
        let token = keyway.app().shared().tokens.snapshot(&Key::of_cloud(0));
        token.is_some_and(|token| token.id.expose() != used).then_some(())
    })
    .await;
}

// Promise 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_is_told_without_what_it_printed() {
    let lab = Lab::start().await;
    let variable = "OS_PASSWORD_COMMAND=/bin/sh -c 'echo hunter2; echo hunter2 >&2; exit 7'";
    let keyway = TestKeyway::cold(vec![lab.config(variable)], |_| {});
    keyway.get("/compute/servers").await.message(503, "no_secret");
    let status = keyway.status().await.to_string();
    assert!(status.contains("/bin/sh failed: exit status: 7") && !status.contains("hunter2"), "{status}");
    let ready = keyway.admin_get("/readyz").await.text();
    assert!(ready.contains("exit status: 7") && ready.contains("next attempt") && !ready.contains("hunter2"));
    assert_eq!((lab.cloud.token_requests(), lab.cloud.wrong_passwords()), (0, 0));
}
