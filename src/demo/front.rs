//! What `keyway demo` needs to know to stand in front of the demo cloud, and to tell people.

use super::{Cloud, DOMAIN, PROJECT, USER};
use crate::keystone::{
    Auth, Config, Domain, Identity, IdentityVersion, Method, Project, Scope, Secret, User,
};
use crate::upstream::BaseUrl;

impl Cloud {
    /// The configuration of a cloud named `demo`: user and project [`USER`] and [`PROJECT`].
    pub fn keystone_config(&self) -> Config {
        let domain = || Some(Domain::Name(DOMAIN.to_owned()));
        let auth = Auth::Identity(Identity {
            auth_url: BaseUrl::parse(&self.auth_url()).expect("a loopback URL"),
            version: IdentityVersion::V3,
            method: Method::Password {
                user: User::Name { name: USER.to_owned(), domain: domain() },
                password: Secret::new(&*self.shared.config.password).into(),
            },
            scope: Scope::Project(Project::Name { name: PROJECT.to_owned(), domain: domain() }),
        });
        Config { region: Some("RegionOne".to_owned()), ..Config::new("demo", auth) }
    }
}

/// What to try, with keyway at `base`: five lines for a shell, and one for those who have the `openstack` client.
pub fn instructions(base: &str) -> String {
    format!(
        r#"
This is a SIMULATION: a demo cloud inside this process. Nothing is real, nothing is kept.
Its tokens live for 5 minutes; keyway renews them. Try, in another terminal:

  curl {base}/compute/servers
  curl {base}/image/images
  curl -X POST {base}/compute/servers -H 'Content-Type: application/json' -d '{{"server": {{"name": "hello", "flavorRef": "1", "imageRef": "{image}", "networks": "auto"}}}}'
  curl '{base}/compute/servers/detail?name=hello'
  curl -X PUT {base}/object-store/box && date | curl -T - {base}/object-store/box/now && curl {base}/object-store/box/now

OpenStack clients log in at {base}/identity, as anybody and with any password:

  openstack --os-auth-url {base}/identity/v3 --os-username demo --os-password any --os-user-domain-name {DOMAIN} --os-project-name {PROJECT} --os-project-domain-name {DOMAIN} server list

Ctrl-C ends it.
"#,
        image = super::uuid_of("RegionOne cirros-0.6.2"),
    )
}
