//! The process: arguments, environment, signals, exit codes.

#![warn(clippy::unwrap_used)]

mod person;
mod process;
mod run;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use keyway::app::{self, App};
use keyway::cli::{Cli, Command, IdentityCommand, KeyCommand};
use keyway::config::{Config, Env, Log, Overrides, Problems};
use keyway::keystone::{Auth, Key};
use keyway::{commands, demo, telemetry};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad configuration or usage.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    telemetry::report_panics();
    let cli = Cli::read();
    let process::Environment { mut variables, warning } = process::environment();
    let (command, limits) = (cli.command(), process::Limits::current());
    let dumps = match command {
        Command::Run { .. } => process::CoreDumps::NotHere,
        _ => process::CoreDumps::Never,
    };
    let warnings: Vec<String> = warning.into_iter().chain(process::harden(dumps)).collect();
    let inherited = run::inherited(&variables);
    let browser = match command {
        Command::Login { no_browser: false } => person::browser(&variables),
        _ => None,
    };
    if let Command::Run { .. } = command {
        variables.extend(run::settings());
    }
    let overrides = cli.overrides();
    let env = Env::new(variables, std::env::current_dir().unwrap_or_default());
    if let Command::Health { ready } = command {
        return health(&overrides, &env, ready);
    }
    let read = || match command {
        Command::Demo => Config::load_without_clouds(&overrides, &env),
        Command::Key(_) | Command::Identity(IdentityCommand::List | IdentityCommand::Show { .. }) => {
            Config::load_identities(&overrides, &env)
        }
        _ => Config::load(&overrides, &env),
    };
    let config = match read() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("keyway: the configuration is not usable:\n{problems}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let mut log = config.log.clone();
    match command {
        Command::Serve | Command::Demo => {}
        // Between the lines of the command, only what is wrong, unless somebody asks for more here and now.
        Command::Run { .. } if cli.sets_log_level() || ["off", "error"].contains(&&*log.level) => {}
        Command::Run { .. } => "warn".clone_into(&mut log.level),
        // These print what they found; what goes on meanwhile is noise, unless somebody asks for it.
        _ if log == Log::default() => "warn,keyway::keystone=off".clone_into(&mut log.level),
        _ => {}
    }
    telemetry::init(&log);
    for warning in warnings.iter().chain(&config.warnings) {
        tracing::warn!("{warning}");
    }
    let done = match &command {
        Command::Run { command } => run::run(config, run::Task { command, inherited, limits }),
        Command::Key(command) => keys(&config, command),
        Command::Login { .. } => log_in(&config, browser.as_deref(), &inherited),
        Command::Identity(command) => identities(&config, command),
        command => serve_or_ask(command, config, &read, cli.names_clouds()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keyway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Of a keyway that runs, whatever has become of its configuration meanwhile.
fn health(overrides: &Overrides, env: &Env, ready: bool) -> ExitCode {
    let admin = match Config::admin_address(overrides, env) {
        Ok(admin) => admin,
        Err(problems) => {
            eprintln!("keyway: there is no admin listener to ask:\n{problems}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match commands::health(&admin, ready) {
        Ok(outcome) => {
            print(&outcome.text);
            if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(why) => {
            eprintln!("keyway: {why}");
            ExitCode::FAILURE
        }
    }
}

fn keys(config: &Config, command: &KeyCommand) -> anyhow::Result<ExitCode> {
    use keyway::commands::{Outcome, keys};
    let only = |text| Outcome { text, failed: false };
    let outcome = match command {
        KeyCommand::New { name, expires, note } => {
            keys::new(config, name, *expires, note, &mut |text| eprintln!("{text}")).map(only)
        }
        KeyCommand::List { name } => keys::list(config, name.as_deref()),
        KeyCommand::Revoke { id } => keys::revoke(config, id).map(only),
    };
    let outcome = outcome.map_err(anyhow::Error::msg)?;
    print(&outcome.text);
    Ok(if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn identities(config: &Config, command: &IdentityCommand) -> anyhow::Result<ExitCode> {
    use keyway::commands::identities;
    let outcome = match command {
        IdentityCommand::List => identities::list(config),
        IdentityCommand::Show { name } => identities::show(config, name),
        IdentityCommand::Test { name, method, path, by } => {
            let runtime = side_runtime()?;
            let gateway = app::unbound(config, runtime.handle())?;
            let tried = runtime.block_on(identities::test(&gateway, name, by, method, path));
            runtime.shutdown_timeout(Duration::from_millis(100));
            tried
        }
    };
    let outcome = outcome.map_err(anyhow::Error::msg)?;
    print(&outcome.text);
    Ok(if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `read` reads the configuration once more: same flags, same environment.
fn serve_or_ask(
    command: &Command,
    config: Config,
    read: &Reread<'_>,
    by_name: bool,
) -> anyhow::Result<ExitCode> {
    let runtime = side_runtime()?;
    let code = match command {
        Command::Serve => serve(&runtime, &config, read),
        Command::Demo => serve_demo(&runtime, config, read),
        asking => ask(&runtime, &config, asking, by_name),
    };
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

/// For Keystone, the admin listener and signals; requests run on the workers' threads.
fn side_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("keyway-side")
        .enable_all()
        .build()
        .context("the system refused a thread")
}

fn ask(runtime: &Runtime, config: &Config, command: &Command, by_name: bool) -> anyhow::Result<ExitCode> {
    let shared = match command {
        // A check logs in, or it would say nothing about the password.
        Command::Check => {
            app::parts(&Config { tokens: None, token_store: None, ..config.clone() }, runtime.handle())?
        }
        _ => app::parts(config, runtime.handle())?,
    };
    let outcome = runtime.block_on(async {
        let only = |printed: Result<String, String>| match printed {
            Ok(text) => Ok(commands::Outcome { text, failed: false }),
            Err(why) => Err(anyhow::Error::msg(why)),
        };
        match command {
            Command::Check => Ok(commands::check(config, &shared).await),
            Command::Token => only(commands::token(&shared).await),
            Command::Logout => Ok(commands::logout(config, &shared).await),
            Command::Status => Ok(commands::status(&shared)),
            Command::Env { clouds_yaml } => only(commands::env(config, &shared, by_name, *clouds_yaml).await),
            _ => Ok(commands::routes(config, &shared).await),
        }
    })?;
    print(&outcome.text);
    Ok(if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `browser` is the command that shows a person an address, if there is one.
fn log_in(
    config: &Config,
    browser: Option<&[String]>,
    inherited: &[(OsString, OsString)],
) -> anyhow::Result<ExitCode> {
    let runtime = side_runtime()?;
    let shared = app::parts(config, runtime.handle())?;
    let mut tell = |text: &str, address: &str| {
        print(&format!("{text}\n"));
        if browser.is_some_and(|browser| person::open(browser, inherited, address).is_ok()) {
            print("It is about to open; --no-browser prevents that.\n");
        }
    };
    let mut ask = person::ask;
    let logged_in = runtime.block_on(commands::login(config, &shared, &mut tell, &mut ask));
    let text = logged_in.map_err(anyhow::Error::msg)?;
    print(&text);
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(ExitCode::SUCCESS)
}

fn serve(runtime: &Runtime, config: &Config, read: &Reread<'_>) -> anyhow::Result<ExitCode> {
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let app = App::start(config, runtime.handle())?;
        Ok(signals.run_until_stopped(&app, announce(&app, config), read).await)
    })
}

/// A cloud that lives in this process, and keyway in front of it.
fn serve_demo(runtime: &Runtime, mut config: Config, read: &Reread<'_>) -> anyhow::Result<ExitCode> {
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let cloud =
            demo::Cloud::start(demo::Config::default()).await.context("the demo cloud could not start")?;
        config.clouds = vec![cloud.keystone_config()];
        let app = App::start(&config, runtime.handle())?;
        let introduction = async {
            announce(&app, &config).await;
            print(&demo::instructions(app.url()));
        };
        let read = || {
            let mut config = read()?;
            config.clouds = vec![cloud.keystone_config()];
            Ok(config)
        };
        Ok(signals.run_until_stopped(&app, introduction, &read).await)
    })
}

/// Says what is served once the default cloud's token is there, and why it is not, until then.
async fn announce(app: &App, config: &Config) {
    let cloud = &config.clouds[0];
    if let Auth::Identity(identity) = &cloud.auth {
        tracing::info!(cloud = cloud.name, "logging in at {}", identity.auth_url);
    }
    let mut told = false;
    while let Err(error) = app.shared().tokens.current(&Key::of_cloud(0)).await {
        if !told {
            tracing::error!(
                cloud = cloud.name,
                "no token yet: {}; until there is one, requests are answered with an error and keyway keeps trying",
                commands::whole(&error)
            );
            told = true;
        }
        let wait = error.retry_after().unwrap_or(Duration::from_secs(1));
        tokio::time::sleep(wait.clamp(Duration::from_millis(100), Duration::from_secs(5))).await;
    }
    if std::io::stdout().is_terminal() {
        print(&commands::banner(config, &app.shared(), app.url(), app.admin_url()));
    } else {
        let names: Vec<_> = config.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
        let listen: Vec<_> = app.addresses().map(ToString::to_string).collect();
        tracing::info!(listen = listen.join(","), admin = %app.admin(), clouds = names.join(","), "serving");
    }
}

/// A reader that went away is no reason to fail.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Reads the configuration as it was read at start.
type Reread<'a> = dyn Fn() -> Result<Config, Problems> + 'a;

/// SIGTERM and SIGINT: the first ends service gently, the second at once. SIGHUP reads the configuration
/// again, and ends nothing. SIGUSR1 has the audit's file opened anew, which SIGHUP does, too.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
    Reopen,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("the system refused a signal handler");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::Reopen,
        }
    }

    async fn run_until_stopped(
        &mut self,
        app: &App,
        introduction: impl Future<Output = ()>,
        read: &Reread<'_>,
    ) -> ExitCode {
        let mut introduction = pin!(async {
            introduction.await;
            std::future::pending::<()>().await;
        });
        loop {
            tokio::select! {
                asked = self.next() => match asked {
                    Asked::Stop => break,
                    Asked::Reload => {
                        app.reload(read());
                    }
                    Asked::Reopen => app.reopen_audit(),
                },
                () = app.ended() => {
                    tracing::error!("every worker has ended although nobody asked for it");
                    app.finish_audit().await;
                    return ExitCode::FAILURE;
                }
                () = introduction.as_mut() => {}
            }
        }
        tracing::info!("stopping: requests in flight finish, new connections are refused");
        app.drain();
        loop {
            tokio::select! {
                () = app.ended() => break,
                asked = self.next() => match asked {
                    Asked::Stop => {
                        tracing::warn!("stopping at once");
                        break;
                    }
                    Asked::Reload => tracing::info!("stopping: the configuration is not read again"),
                    Asked::Reopen => app.reopen_audit(),
                },
            }
        }
        app.finish_audit().await;
        ExitCode::SUCCESS
    }
}
