//! keyway in front of one raw service, without Keystone, and what both of its sides see on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use keyway::app::App;
use keyway::config::{Config, Env, Overrides};
use keyway::keystone::{self, Auth, Secret};
use keyway::upstream::BaseUrl;
use tokio::runtime::Handle;

/// The token of a cloud made by [`fixed_cloud`].
pub const TOKEN: &str = "the-token";

/// A running keyway. Dropped, it drains.
pub struct Keyway {
    app: App,
}

impl Keyway {
    /// In front of one cloud, on one worker.
    pub fn start(cloud: keystone::Config) -> Self {
        Self::start_with(cloud, |_| {})
    }

    /// The same with other settings.
    pub fn start_with(cloud: keystone::Config, change: impl FnOnce(&mut Config)) -> Self {
        let overrides = Overrides {
            listen: Some("127.0.0.1:0".to_owned()),
            admin: Some("127.0.0.1:0".to_owned()),
            workers: Some("1".to_owned()),
            ..Overrides::default()
        };
        let env = Env::new([] as [(String, String); 0], "/nonexistent").with_root("/nonexistent");
        let mut config = Config::load_without_clouds(&overrides, &env).expect("a good configuration");
        config.clouds = vec![cloud];
        config.drain = Duration::from_millis(100);
        change(&mut config);
        Self { app: App::start(&config, &Handle::current()).expect("keyway starts") }
    }

    /// In front of one raw service that serves every service type, at `/svc/..` as well as any other.
    pub fn before(upstream: &super::raw::Upstream) -> Self {
        Self::start(fixed_cloud(&upstream.url()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.app.addresses().next().and_then(keyway::server::Address::tcp).expect("an IP address")
    }

    /// Everything that it counts.
    pub fn metrics(&self) -> String {
        self.app.shared().metrics.render()
    }

    /// How many errors it counted for this reason.
    pub fn errors(&self, reason: &str) -> u64 {
        self.sample(&format!("keyway_errors_total{{reason=\"{reason}\"}}")).unwrap_or(0)
    }

    /// How many connections it closed or refused for this reason.
    pub fn closed(&self, reason: &str) -> u64 {
        let sample = format!("keyway_connections_closed_total{{reason=\"{reason}\"}}");
        self.sample(&sample).unwrap_or_else(|| panic!("no such reason: {reason}"))
    }

    /// How many connections are open.
    pub fn open(&self) -> u64 {
        self.sample("keyway_connections{side=\"downstream\",state=\"active\"}").unwrap_or(0)
    }

    fn sample(&self, sample: &str) -> Option<u64> {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(value.parse().expect("a count"))
    }

    /// keyway itself.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// A raw client's connection.
    pub async fn connect(&self) -> super::raw::Peer {
        super::raw::Peer::connect(self.address()).await
    }
}

/// A cloud without Keystone: every service is at `url`, with the token [`TOKEN`].
pub fn fixed_cloud(url: &str) -> keystone::Config {
    let endpoint = BaseUrl::parse(url).expect("a good URL");
    keystone::Config::new("raw", Auth::Fixed { endpoint, token: Secret::new(TOKEN).into() })
}

/// Makes every endpoint of `service` in the demo cloud's catalog point to `url`, and no other one.
pub fn point(cloud: &keyway::demo::Cloud, service: &str, url: &str) {
    point_all(cloud, &[service], url);
}

/// The same for several services.
pub fn point_all(cloud: &keyway::demo::Cloud, services: &[&str], url: &str) {
    let mut catalog = cloud.catalog();
    for entry in catalog.as_array_mut().expect("a list of services") {
        if services.iter().any(|service| entry["type"] == *service) {
            for endpoint in entry["endpoints"].as_array_mut().expect("a list of endpoints") {
                endpoint["url"] = url.into();
            }
        }
    }
    cloud.set_catalog(catalog);
}
