//! Keystone: who are we, which token do we carry, and where are the services?
//!
//! Nothing here knows routes or downstream clients.

pub mod cache;
pub mod callback;
pub mod catalog;
pub mod client;
pub mod credentials;
pub mod discovery;
pub mod error;
pub mod federation;
pub mod kerberos;
pub mod login;
mod oauth1;
mod proof;
pub mod protocol;
pub mod provider;
pub mod saml;
pub mod seal;
pub mod service;
pub mod service_type;
pub mod shared;
pub mod store;
pub mod token;
pub mod totp;

pub use cache::{Asked, Event, Keeping, Key, Observer, Outcome, Protection, Reason, Status, TokenCache};
pub use catalog::{Catalog, Destination, Endpoint, NoEndpoint};
pub use client::Client;
pub use credentials::{
    AllowHttp, ApplicationCredential, Auth, Config, Domain, Identity, IdentityVersion, Interface, Method,
    Passcode, Project, Scope, Secret, Source, User,
};
pub use discovery::{Discovery, Versions};
pub use error::AuthError;
pub use federation::{
    Challenge, CodeSource, Federated, Grant, OAuthClient, ProviderEndpoint, ProviderUser, TokenKind,
};
pub use kerberos::MutualAuth;
pub use login::{Kept, LoginId, Person, Place};
pub use proof::Factor;
pub use protocol::ProjectInfo;
pub use provider::{ProviderError, ProviderUrl};
pub use service::{Retries, ServiceOptions};
pub use store::Store;
pub use token::{InvalidToken, Named, Token, TokenId};
