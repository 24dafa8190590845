//! `listen`, `admin` and `[listener.NAME]`.

use super::*;
use crate::server::tls::Clients;

/// Files as a listener's TLS needs them: a certificate and an authority for all, a key for its owner.
fn with_tls_files() -> Setup {
    let setup =
        Setup::new().vars(PASSWORD).file("srv/tls.pem", "").file("srv/tls.key", "").file("srv/ca.pem", "");
    setup.mode("srv/tls.pem", 0o644).mode("srv/ca.pem", 0o644)
}

const TLS: &str = "tls_cert = 'tls.pem'\ntls_key = 'tls.key'\nclient_ca = 'ca.pem'";

/// Checks the problems of a keyway.toml, each as `key: message`.
#[track_caller]
fn check(toml: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|line| format!("{TOML}: {line}")).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    with_tls_files().toml(toml).check_problems(&expected);
}

#[test]
fn a_listener_has_everything_that_its_table_says() {
    let text = "
        [listener.compute]
        address = 'localhost:8774'
        hosts = ['Nova.Example', 'nova.example:8443']
        origins = ['https://dashboard.example', 'http://10.0.0.1:8080', 'chrome-extension://abc']
        required_header = 'X-Keyway: let me in'
        policy = 'look'
        [listener.team]
        address = '10.0.0.1:8443'
        tls_cert = 'tls.pem'
        tls_key = 'tls.key'
        client_ca = 'ca.pem'
        login = 'configured'
        [listener.socket]
        address = 'unix:/run/keyway.sock'
        mode = '0660'
        users = [1000, 1001]
        [listener.main]
        hosts = ['keyway.example']
        [listener.admin]
        required_header = 'X-Admin: 1'
        [policy.look]
        read_only = true
        [identity.ada]
        password = 'hunter2-ada'
    ";
    let setup = with_tls_files().toml(text);
    let config = setup.config();
    let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["main", "compute", "socket", "team"]);
    let [main, compute, socket, team] = &config.listeners[..] else { panic!("four listeners") };
    assert_eq!((port(main), port(compute), port(&config.admin)), (8180, 8774, 8181));
    assert_eq!(main.entry.hosts, ["keyway.example"]);
    assert_eq!(compute.entry.hosts, ["nova.example", "nova.example:8443"]);
    let origins = ["https://dashboard.example", "http://10.0.0.1:8080", "chrome-extension://abc"];
    assert_eq!(compute.entry.origins, origins);
    let (name, value) = compute.entry.required.as_ref().expect("a header");
    assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-keyway", "let me in"));
    assert_eq!(compute.policy.as_ref().map(|policy| policy.name()), Some("look"));
    assert_eq!(socket.server.address, Address::Unix("/run/keyway.sock".into()));
    assert_eq!((socket.server.mode, socket.server.users.as_slice()), (0o660, &[1000, 1001][..]));
    let srv = setup.dir.path().join("srv");
    let tls = team.server.tls.as_ref().expect("TLS");
    assert_eq!((&tls.cert, &tls.key), (&srv.join("tls.pem"), &srv.join("tls.key")));
    assert_eq!(tls.clients, Some(Clients::of(srv.join("ca.pem"))));
    assert!(config.admin.entry.required.is_some());
    assert_eq!(config.warnings, [""; 0]);
    // The header's value is as good as a password.
    let shown = format!("{config:?}");
    assert!(!shown.contains("let me in") && !shown.contains("hunter2"));
}

// Promise 1.
#[test]
fn an_address_that_others_reach_needs_tls_and_must_know_its_clients() {
    let ways = "is no loopback address, and whoever reaches it would act as your cloud user: bind 127.0.0.1 or a \
                unix:/path socket, or set tls_cert, tls_key and client_ca in [listener.";
    for address in
        ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1", "255.255.255.255:1"]
    {
        let shown = address.parse::<std::net::SocketAddr>().unwrap();
        let of = |table: &str| format!("{shown} {ways}{table}]");
        check(&format!("listen = '{address}'"), &[&format!("listen: {}", of("main"))]);
        check(&format!("admin = '{address}'"), &[&format!("admin: {}", of("admin"))]);
        check(
            &format!("[listener.x]\naddress = '{address}'"),
            &[&format!("listener.x.address: {}", of("x"))],
        );
        for (listen, table) in [("listen", "main"), ("admin", "admin")] {
            let known = format!(
                "{listen} = '{address}'\n[listener.{table}]\n{TLS}\n[identity.ada]\npassword = 'hunter2-ada'"
            );
            with_tls_files().toml(&known).config();
        }
    }
    // TLS alone says nothing of who a client is. Identities do, by their keys; the admin listener knows none.
    let alone = |listen: &str, table: &str| {
        format!("{listen} = '10.0.0.1:1'\n[listener.{table}]\ntls_cert = 'tls.pem'\ntls_key = 'tls.key'\n")
    };
    let unknown =
        "10.0.0.1:1 is no loopback address, and TLS alone does not say who a client is: set client_ca";
    let ada = "\n[identity.ada]\npassword = 'hunter2-ada'";
    check(
        &(alone("listen", "main") + "login = 'any'" + ada),
        &[&format!("listen: {unknown} in [listener.main] too, or write [identity.NAME]")],
    );
    check(
        &(alone("admin", "admin") + ada),
        &[&format!("admin: {unknown} in [listener.admin] too, or bind 127.0.0.1")],
    );
    check(
        &alone("listen", "main"),
        &[&format!("listen: {unknown} in [listener.main] too, or write [identity.NAME]")],
    );
    for login in ["", "login = 'configured'"] {
        with_tls_files().toml(&(alone("listen", "main") + login + ada)).config();
    }
    // Identities in files of their own are identities, too.
    let in_files = || with_tls_files().file("srv/identities/.keep", "");
    let toml = |setup: Setup| {
        let text = alone("listen", "main").replacen('\n', "\nidentities.directory = 'identities'\n", 1);
        setup.toml(&text)
    };
    toml(in_files()).check_problems(&[&format!(
        "{TOML}: listener.main.login: only configured identities are served at 10.0.0.1:1, and there is none"
    )]);
    toml(in_files().file("srv/identities/ada.toml", "password = 'hunter2-ada'")).config();
    for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/run/k.sock"] {
        with_tls_files().toml(&format!("listen = '{address}'")).config();
    }
    // Wherever it is written.
    let mut setup = with_tls_files().vars("KEYWAY_ADMIN=0.0.0.0:2");
    setup.overrides.listen = Some("0.0.0.0:1".to_owned());
    setup.check_problems(&[
        "command line: --listen: 0.0.0.0:1 is no",
        "environment: KEYWAY_ADMIN: 0.0.0.0:2 is no",
    ]);
}

#[test]
fn addresses_are_there_once_each() {
    check("[listener.x]\nhosts = []", &["listener.x.address: is missing: write ADDRESS:PORT"]);
    check("[listener.x]\naddress = 'here'", &["listener.x.address: `here` is no address"]);
    check(
        "[listener.x]\naddress = 'unix:k.sock'",
        &["listener.x.address: `unix:k.sock` names no socket file"],
    );
    check(
        "listen = '127.0.0.1:1'\n[listener.main]\naddress = '127.0.0.1:2'\n[listener.admin]\naddress = '127.0.0.1:3'",
        &[
            "listener.main.address: this listener's address is the key `listen`",
            "listener.admin.address: this listener's address is the key `admin`",
        ],
    );
    let x = |address: &str| format!("[listener.x]\naddress = '{address}'\n");
    let y = |address: &str| format!("[listener.y]\naddress = '{address}'\n");
    check(
        &x("127.0.0.1:8181"),
        &["listener.x.address: the listener `admin` would listen on 127.0.0.1:8181 too"],
    );
    check(&x("127.0.0.1:8180"), &["listener.x.address: the listener `main` would"]);
    let socket = "unix:/run/k.sock";
    check(
        &(x(socket) + &y(socket)),
        &["listener.y.address: the listener `x` would listen on unix:/run/k.sock too"],
    );
    with_tls_files().toml(&(x("127.0.0.1:0") + &y("127.0.0.1:0"))).config();
}

#[test]
fn names_are_simple_words_and_unknown_keys_are_named() {
    check("[listener.'a b']\naddress = '127.0.0.1:1'", &["listener.a b: its name is no simple word"]);
    check(
        "listner = 1\n[listener.x]\naddress = '127.0.0.1:1'\nhost = ['a']",
        &[
            "listener.x.host: unknown key: did you mean `hosts`?",
            "listner: unknown key: did you mean `listener`?",
        ],
    );
    check("listener = 1", &["listener: a number, not a table: write [listener.NAME]"]);
    check("[listener]\ny = 1", &["listener.y: a number, not a table: write [listener.y]"]);
    check(
        "[listener.main]\nhosts = 'a'\nusers = ['root']\nrequired_header = 1.5",
        &[
            "listener.main.hosts: a text, not a list of texts: write listener.main.hosts = [\"..\", \"..\"]",
            "listener.main.required_header: a fraction, not a text",
            "listener.main.users: a list, not a list of numbers: write listener.main.users = [1000, 1001]",
            "listener.main.users: only a unix:/path socket has it, and this listener is at 127.0.0.1:8180",
        ],
    );
}

#[test]
fn hosts_origins_and_headers_are_checked() {
    for host in ["https://a.example", "a.example/x", "me@a.example", "a b", "*.example", "a:"] {
        let toml = format!("[listener.main]\nhosts = ['{host}']");
        check(&toml, &[&format!("listener.main.hosts: `{host}` ")]);
    }
    for origin in ["null", "dashboard.example", "https://", "https://a/x", "https://me@a", "*"] {
        let toml = format!("[listener.main]\norigins = ['{origin}']");
        check(&toml, &[&format!("listener.main.origins: `{origin}` ")]);
    }
    // The value is not shown, whatever is wrong with it.
    for header in ["hunter2", "a b: hunter2", ": hunter2", "x: hunter2\\u0007", "x:"] {
        let toml = format!("[listener.main]\nrequired_header = \"{header}\"");
        check(&toml, &["listener.main.required_header: "]);
    }
}

#[test]
fn tls_files_belong_together_and_are_there() {
    let main = |lines: &str| format!("[listener.main]\n{lines}");
    check(&main("tls_cert = 'tls.pem'"), &["listener.main.tls_key: is missing, but it belongs to tls_cert"]);
    check(&main("tls_key = 'tls.key'"), &["listener.main.tls_cert: is missing, but tls_key belongs to it"]);
    check(
        &main("client_ca = 'ca.pem'"),
        &["listener.main.tls_cert: is missing, but client_ca asks for tls_cert"],
    );
    check(
        &main("tls_cert = 'none.pem'\ntls_key = '~'\nclient_ca = '/'"),
        &[
            "listener.main.tls_cert: /srv/none.pem cannot be read",
            "listener.main.tls_key: /home/ is not a file",
            "listener.main.client_ca: / is not a file",
        ],
    );
}

// Promise 14.
#[test]
fn a_listeners_key_that_everyone_can_read_is_refused() {
    let setup = with_tls_files().toml(&format!("[listener.main]\n{TLS}"));
    assert_eq!(setup.config().warnings, [""; 0]);
    setup.mode("srv/tls.key", 0o644).check_problems(&[&format!(
        "{TOML}: listener.main.tls_key: /srv/tls.key holds a private key and can be read by every user of this machine: \
         chmod 600 /srv/tls.key"
    )]);
}

// Promise 14.
#[test]
fn a_keyway_toml_with_a_secret_that_others_can_read_is_warned_of() {
    let path = "home/.config/keyway/keyway.toml";
    let setup = Setup::new().vars(PASSWORD).toml("[listener.main]\nrequired_header = 'X-Keyway: hunter2'");
    assert_eq!(setup.config().warnings, [""; 0]);
    let warnings = setup.mode(path, 0o644).config().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("keyway.toml holds a secret and can be read by other users: chmod 600 /"));
    let setup = Setup::new().vars(PASSWORD).toml("[listener.main]\nhosts = ['a.example']").mode(path, 0o644);
    assert_eq!(setup.config().warnings, [""; 0]);
}

#[test]
fn a_socket_files_mode_goes_with_its_users() {
    let socket = |lines: &str| format!("listen = 'unix:/run/k.sock'\n[listener.main]\n{lines}");
    let main = |lines: &str| with_tls_files().toml(&socket(lines)).config().listeners[0].server.clone();
    assert_eq!((main("").mode, main("").users), (0o600, vec![]));
    assert_eq!(main("mode = '0666'\nusers = [0]").mode, 0o666);
    assert_eq!(main("mode = 600").mode, 0o600);
    for mode in ["0660", "0666"] {
        let toml = socket(&format!("mode = '{mode}'\nusers = []"));
        check(&toml, &["listener.main.mode: lets others connect, so it takes a list of who may"]);
    }
    check(&socket("mode = '0777'\nusers = [1]"), &["listener.main.mode: `0777` is none of the modes"]);
    check(
        &socket("users = [-1, 4294967296]"),
        &["listener.main.users: -1 is no user id", "listener.main.users: 4294967296 is no user id"],
    );
    check("[listener.main]\nmode = '0600'", &["listener.main.mode: only a unix:/path socket has it"]);
}

#[test]
fn a_policy_that_is_not_there_is_a_problem() {
    check(
        "[listener.main]\npolicy = 'x'",
        &["listener.main.policy: there is no policy `x`: write a table [policy.x]"],
    );
    let policy = "[policy.look]\nread_only = true\n";
    check(
        &format!("{policy}[listener.main]\npolicy = 'lock'"),
        &["listener.main.policy: there is no policy `lock`: did you mean `look`?"],
    );
    check(
        &format!("{policy}[listener.main]\npolicy = 'nothing'"),
        &["listener.main.policy: there is no policy `nothing`: there is look"],
    );
    check(
        &format!("{policy}[listener.admin]\npolicy = 'look'"),
        &["listener.admin.policy: the admin listener serves nothing that a policy speaks of"],
    );
}

#[test]
fn a_listener_may_stand_for_one_service() {
    let text = "
        [listener.nova]
        address = '127.0.0.1:1'
        service = 'compute'
        [listener.two]
        address = '127.0.0.1:2'
        service = 'Cloud DB'
        cloud = 'lab'
        region = 'Region/Two'
        [listener.ordinary]
        address = '127.0.0.1:3'
    ";
    let clouds = yaml(&["prod", "lab"]);
    let config = Setup::new().clouds(&clouds).toml(&format!("clouds = ['prod', 'lab']\n{text}")).config();
    let listeners = config.listeners.iter();
    let pinned: Vec<_> =
        listeners.map(|listener| (listener.name.as_str(), listener.pinned.as_deref())).collect();
    assert_eq!(
        pinned,
        [
            ("main", None),
            ("nova", Some("/compute")),
            ("ordinary", None),
            ("two", Some("/cloud/lab/region/Region%2FTwo/Cloud%20DB")),
        ]
    );
}

#[test]
fn a_listeners_service_has_a_name_and_a_cloud_that_is_served() {
    let x = |text: &str| format!("[listener.x]\naddress = '127.0.0.1:1'\n{text}");
    check(&x("service = ''"), &["listener.x.service: is no name: write one as the catalog has it"]);
    check(&x("service = ' '"), &["listener.x.service: is no name"]);
    check(&x("service = \"a\\tb\""), &["listener.x.service: is no name"]);
    check(&x("service = ['a']"), &["listener.x.service: a list, not a text"]);
    check(&x("service = 'a'\nregion = ''"), &["listener.x.region: is no name"]);
    check(
        &x("region = 'R'\ncloud = 'envvars'"),
        &[
            "listener.x.cloud: says where a service is, and there is none: set service = \"compute\"",
            "listener.x.region: says where a service is, and there is none",
        ],
    );
    check(
        &x("service = 'compute'\ncloud = 'lab'"),
        &["listener.x.cloud: no such cloud is served, only envvars: correct the name, or serve the cloud"],
    );
    check(
        "[listener.main]\nservice = 'compute'\n[listener.admin]\nservice = 'compute'",
        &[
            "listener.main.service: this listener serves more than one service: write a [listener.NAME]",
            "listener.admin.service: this listener serves more than one service",
        ],
    );
}

/// The addresses of the emulated ports, and what each stands for.
fn emulated(setup: Setup) -> Vec<String> {
    let config = setup.config();
    let emulated = config.listeners.iter().filter(|listener| listener.emulated);
    emulated
        .map(|listener| format!("{} {}", listener.server.address, listener.pinned.as_deref().unwrap()))
        .collect()
}

#[test]
fn conventional_ports_are_emulated_as_asked() {
    let setup = with_tls_files;
    assert_eq!(emulated(setup().toml("emulate_ports = false")), [""; 0]);
    assert_eq!(emulated(setup().toml("emulate_ports = []")), [""; 0]);
    let some = ["127.0.0.1:5000 /identity", "127.0.0.1:35357 /identity", "127.0.0.1:8776 /block-storage"];
    assert_eq!(emulated(setup().toml("emulate_ports = ['identity', 'volumev3', 'block_storage']")), some);
    assert_eq!(emulated(setup().vars("KEYWAY_EMULATE_PORTS=identity, volume")), some);
    let all = emulated(setup().toml("emulate_ports = true"));
    assert_eq!((all.len(), all[2].as_str()), (19, "127.0.0.1:8774 /compute"));
    let mut by_flag = setup().toml("emulate_ports = ['dns']");
    by_flag.overrides.emulate_ports = Some("true".to_owned());
    assert_eq!(emulated(by_flag), all);

    // At the main listener's address, with all that it asks.
    let main = "[listener.main]\nhosts = ['k.example']\npolicy = 'look'";
    let text = format!("listen = '[::1]:1'\nemulate_ports = ['image']\n{main}\n{TLS}");
    let config = setup().toml(&format!("{text}\n[policy.look]\nread_only = true")).config();
    let [main, image] = &config.listeners[..] else { panic!("two listeners") };
    assert_eq!(image.server.address.to_string(), "[::1]:9292");
    assert_eq!((&image.entry, &image.policy, image.logins), (&main.entry, &main.policy, main.logins));
    assert!(image.server.tls.is_some() && image.server.tls == main.server.tls);
    let remote =
        format!("listen = '10.0.0.1:1'\nemulate_ports = ['image']\n[listener.main]\nlogin = 'any'\n{TLS}");
    let config = setup().toml(&remote).config();
    assert_eq!(config.listeners[1].server.address.to_string(), "127.0.0.1:9292");
    assert!(config.listeners[1].server.tls.is_some());
    let config = setup().toml("listen = 'unix:/run/k.sock'\nemulate_ports = ['image']").config();
    assert_eq!(config.listeners[1].server.address.to_string(), "127.0.0.1:9292");
    let warned = config.warnings.iter().any(|warning| warning.contains("every user of this machine reaches"));
    assert!(warned, "{:?}", config.warnings);
}

#[test]
fn conventional_ports_leave_other_listeners_alone() {
    let nova = "emulate_ports = ['compute']\n[listener.nova]\naddress = '127.0.0.1:8774'\n";
    let region = format!("{nova}service = 'compute'\nregion = 'two'");
    assert_eq!(emulated(with_tls_files().toml(&region)), [""; 0]);
    check(
        nova,
        &["emulate_ports: the listener `nova`, which serves more than compute, is at 127.0.0.1:8774: change"],
    );
    check(
        "admin = '127.0.0.1:8080'\nemulate_ports = true",
        &["emulate_ports: the listener `admin`, which serves more than object-store, is at 127.0.0.1:8080"],
    );
    check(
        "emulate_ports = ['compute', 'metric']",
        &["emulate_ports: `metric` is no service with a port by convention: write true"],
    );
    check(
        "emulate_ports = 'compute'",
        &["emulate_ports: a text, not a list of texts: write emulate_ports = "],
    );
    check("emulate_ports = 8774", &["emulate_ports: a number, not a list of texts"]);
    let mut setup = with_tls_files().vars("KEYWAY_EMULATE_PORTS=yes");
    setup.overrides.emulate_ports = Some("compute,".to_owned());
    setup.check_problems(&[
        "environment: KEYWAY_EMULATE_PORTS: `yes` is no service",
        "command line: --emulate-ports: `` is no service",
    ]);
}
