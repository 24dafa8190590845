//! The process: arguments, environment, signals, exit codes.

#![warn(clippy::unwrap_used)]

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use keyway::app::{self, App};
use keyway::cli::{Cli, Command};
use keyway::config::{Config, Env, Log};
use keyway::keystone::{Auth, Key};
use keyway::{commands, demo, telemetry};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad configuration or usage.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command();
    let overrides = cli.overrides();
    let env = Env::new(std::env::vars_os(), std::env::current_dir().unwrap_or_default());
    let loaded = match command {
        Command::Demo => Config::load_without_clouds(&overrides, &env),
        _ => Config::load(&overrides, &env),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("keyway: the configuration is not usable:\n{problems}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let mut log = config.log.clone();
    if !matches!(command, Command::Serve | Command::Demo) && log == Log::default() {
        // These print what they found; what goes on meanwhile is noise, unless somebody asks for it.
        "warn,keyway::keystone=off".clone_into(&mut log.level);
    }
    telemetry::init(&log);
    limits();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(&command, config) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keyway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// As many open files as the system allows (a client in flight takes two), and no core dump: it
/// would hold the password and the token.
fn limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
}

fn run(command: &Command, config: Config) -> anyhow::Result<ExitCode> {
    // Keystone, the admin listener and signals; requests run on the workers' threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("keyway-side")
        .enable_all()
        .build()
        .context("the system refused a thread")?;
    let code = match command {
        Command::Serve => serve(&runtime, &config),
        Command::Demo => serve_demo(&runtime, config),
        asking => ask(&runtime, &config, asking),
    };
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

fn ask(runtime: &Runtime, config: &Config, command: &Command) -> anyhow::Result<ExitCode> {
    let shared = app::parts(config, runtime.handle())?;
    let outcome = runtime.block_on(async {
        let only = |printed: Result<String, String>| match printed {
            Ok(text) => Ok(commands::Outcome { text, failed: false }),
            Err(why) => Err(anyhow::Error::msg(why)),
        };
        match command {
            Command::Check => Ok(commands::check(&shared).await),
            Command::Token => only(commands::token(&shared).await),
            Command::Env { clouds_yaml } => {
                only(commands::env(&shared, &config.listeners[0].url(), *clouds_yaml).await)
            }
            Command::Routes | Command::Serve | Command::Demo => {
                Ok(commands::routes(&shared, &config.listeners[0].url()).await)
            }
        }
    })?;
    print(&outcome.text);
    Ok(if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn serve(runtime: &Runtime, config: &Config) -> anyhow::Result<ExitCode> {
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let app = App::start(config, runtime.handle())?;
        Ok(signals.run_until_stopped(&app, announce(&app, config)).await)
    })
}

/// A cloud that lives in this process, and keyway in front of it.
fn serve_demo(runtime: &Runtime, mut config: Config) -> anyhow::Result<ExitCode> {
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
        Ok(signals.run_until_stopped(&app, introduction).await)
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
        print(&commands::banner(config, app.shared(), app.url(), app.admin_url()));
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

/// SIGTERM and SIGINT: the first ends service gently, the second at once. SIGHUP ends nothing.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("the system refused a signal handler");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP: keyway can't reload its configuration yet; restart it to change something");
                }
            }
        }
    }

    async fn run_until_stopped(&mut self, app: &App, introduction: impl Future<Output = ()>) -> ExitCode {
        tokio::select! {
            () = self.next() => {}
            () = app.ended() => {
                tracing::error!("every worker has ended although nobody asked for it");
                return ExitCode::FAILURE;
            }
            () = async { introduction.await; std::future::pending().await } => {}
        }
        tracing::info!("stopping: requests in flight finish, new connections are refused");
        app.drain();
        tokio::select! {
            () = app.ended() => {}
            () = self.next() => tracing::warn!("stopping at once"),
        }
        ExitCode::SUCCESS
    }
}
