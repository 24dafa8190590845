//! Keystone: who are we, which token do we carry, and where are the services?
//!
//! Nothing here knows routes or downstream clients.

pub mod cache;
pub mod catalog;
pub mod client;
pub mod credentials;
pub mod discovery;
pub mod error;
mod proof;
pub mod protocol;
pub mod service_type;
pub mod token;

pub use cache::{Asked, Event, Key, Observer, Outcome, Protection, Reason, Status, TokenCache};
pub use catalog::{Catalog, Destination, Endpoint, NoEndpoint};
pub use client::Client;
pub use credentials::{
    AllowHttp, ApplicationCredential, Auth, Config, Domain, Identity, IdentityVersion, Interface, Method,
    Project, Scope, Secret, Source, User,
};
pub use discovery::Discovery;
pub use error::AuthError;
pub use proof::Factor;
pub use protocol::ProjectInfo;
pub use token::{InvalidToken, Named, Token, TokenId};
