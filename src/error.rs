//! Every way a request ends without an answer from the service it asked for.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::audit::Decision;
use crate::entry::Refusal;
use crate::facade;
use crate::identity::{Exceeded, Identity};
use crate::keystone::{AuthError, NoEndpoint, ProviderError};
use crate::route::RouteError;
use crate::upstream;

/// See the module's documentation. A message is for the client: what, and what to do; the cause is
/// for the log. It never repeats what the client sent: an answer is no place to plant text in.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The listener does not let it in.
    #[error("{0}")]
    Entry(#[from] Refusal),
    /// A policy forbids it.
    #[error(
        "rule `{rule}` of policy `{policy}` denies this request; ask for what the policy allows, or have it \
         changed in keyway.toml"
    )]
    Denied {
        /// The policy's name.
        policy: String,
        /// The rule's name; `read_only` or `default` where no rule decided.
        rule: String,
    },
    /// The path names nothing.
    #[error("{0}")]
    Route(#[from] RouteError),
    /// The target is no path: `*`, an authority, or another origin's URL.
    #[error("the request's target must be a path, or a URL of this listener")]
    Target,
    /// The target is longer than allowed.
    #[error("the request's target is longer than {limit} bytes; shorten it")]
    TargetTooLong {
        /// The limit, bytes.
        limit: usize,
    },
    /// The head is larger than allowed.
    #[error("the request's head is larger than {limit} bytes; send fewer or shorter header fields")]
    HeadTooLarge {
        /// The limit, bytes.
        limit: usize,
    },
    /// The framing can be read in two ways.
    #[error(
        "the request's framing is ambiguous: {0}; send one Content-Length, or Transfer-Encoding: chunked"
    )]
    Framing(&'static str),
    /// It is not what HTTP allows.
    #[error("the request is malformed: {0}")]
    Syntax(&'static str),
    /// CONNECT and TRACE, and methods that are not in capitals.
    #[error("keyway does not serve this method; use another one, in capitals")]
    Method,
    /// The body ended early or was malformed.
    #[error("the request's body ended early or is malformed; send it again")]
    Body(#[source] hyper::Error),
    /// The body is larger than the service's limit.
    #[error(
        "the request's body is larger than the {limit} bytes that this service may get; send less, or raise limits.body"
    )]
    BodyTooLarge {
        /// The limit, bytes.
        limit: u64,
    },
    /// No cloud of that name.
    #[error("there is no such cloud; there are: {}", .known.join(", "))]
    UnknownCloud {
        /// The clouds served.
        known: Vec<String>,
    },
    /// The catalog lacks it.
    #[error("{}", missing(.0))]
    NoEndpoint(#[from] NoEndpoint),
    /// No endpoint of the catalog at that origin, or none that the path could belong to.
    #[error(
        "no endpoint of the catalog has this address; take one from the catalog or a link that keyway gave \
         out, or ask for /{{service}}/..., where there are {}",
        list(available)
    )]
    NoOrigin {
        /// The official types of the services that there are.
        available: Vec<String>,
    },
    /// A token must not travel in the clear.
    #[error(
        "the endpoint of `{service}` is plain http although Keystone is https, so it gets no token; have the \
         catalog corrected, or allow it: [cloud.{cloud}] allow_http = [\"{service}\"]"
    )]
    PlainHttp {
        /// The service's type.
        service: String,
        /// The cloud's name.
        cloud: String,
    },
    /// No token.
    #[error("{}", for_client(.0))]
    Auth(Arc<AuthError>),
    /// A token like keyway's own that opens nothing, or none where one is wanted.
    #[error(
        "the request needs a good token or API key of keyway's, and {why}; show one, or log in where WWW-Authenticate says"
    )]
    Unauthorized {
        /// What is wrong with it.
        why: facade::Unusable,
        /// Where to log in, as the client sees it: `http://localhost:8180/identity`.
        keystone: String,
    },
    /// A login that the configuration does not have.
    #[error(
        "there is no such identity, or it has another password or key; log in as an [identity.NAME] of keyway.toml"
    )]
    WrongPassword {
        /// As in [`ProxyError::Unauthorized`].
        keystone: String,
    },
    /// The identity's rights do not reach there.
    #[error(
        "`{rule}` of identity `{identity}` denies this request; ask for what it allows, or have it changed"
    )]
    Beyond {
        /// Whose.
        identity: String,
        /// Which of its rights: `clouds`, `projects`, `regions`, `identity_api`.
        rule: &'static str,
    },
    /// An identity has too many requests.
    #[error("{}", too_many(identity, *exceeded))]
    Limited {
        /// Whose.
        identity: String,
        /// What there is too much of.
        exceeded: Exceeded,
    },
    /// Too many wrong passwords.
    #[error("too many wrong passwords or keys came from this address; try again shortly, with the right one")]
    TooManyLogins {
        /// When the next one is looked at.
        wait: Duration,
    },
    /// A path that names a project, with a token of keyway's that has a scope of its own.
    #[error(
        "the path names a project, but the token has a scope of its own; leave `/project/` out, or the token"
    )]
    TokenScope,
    /// A question about a token of keyway's own that only the cloud's Keystone could answer.
    #[error(
        "the request is about a token or key of keyway's own, which is not good or nothing that the cloud could know of; \
         log in again, and ask /identity/v3/auth/tokens about the new one"
    )]
    OwnToken,
    /// Another spelling of what keyway's own Keystone answers.
    #[error(
        "keyway answers this itself, but only where it is asked plainly; ask below /identity/v3, with no `//`, no `/` at \
         the end and nothing percent-encoded"
    )]
    Spelling,
    /// No answer from the service.
    #[error("{}", unanswered(.0))]
    Upstream(#[source] upstream::Error),
    /// The head came too slowly.
    #[error("the request's head took too long; send it again, and faster")]
    Late,
    /// The operator's limit for the service.
    #[error(
        "more requests wait for this service than the cloud's `rate_limit` or `concurrency` lets through in a minute; \
         try again later, or have it raised in clouds.yaml"
    )]
    ServiceLimit {
        /// How long until there may be room.
        wait: Duration,
    },
    /// The audit can't be written, and nothing may be served without it.
    #[error(
        "keyway can't write its audit, and serves nothing without it; try again shortly, or tell whoever runs it"
    )]
    AuditUnavailable,
    /// Too much at once.
    #[error("keyway is serving as many requests as it may; try again shortly")]
    Overloaded,
    /// A defect of keyway.
    #[error("keyway failed on this request; its log says more")]
    Internal,
}

/// Why a request was not answered by its service: the label of `keyway_errors_total`, the
/// `X-Keyway-Error` header and the `reason` of the body. A fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(&'static str);

impl Reason {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl ProxyError {
    /// The status the client sees. Never 401 for our own trouble, only for a token or a login of keyway's own, and
    /// where Keystone says it to the scope that a client asked for.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Entry(refusal) => refusal.status(),
            Self::Denied { .. } | Self::Beyond { .. } | Self::TokenScope => StatusCode::FORBIDDEN,
            Self::Unauthorized { .. } | Self::WrongPassword { .. } => StatusCode::UNAUTHORIZED,
            Self::TooManyLogins { .. } | Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Route(RouteError::NoService | RouteError::EmptySelector(_) | RouteError::NoOrigin)
            | Self::UnknownCloud { .. }
            | Self::NoOrigin { .. }
            | Self::OwnToken => StatusCode::NOT_FOUND,
            Self::Route(_)
            | Self::Target
            | Self::Framing(_)
            | Self::Syntax(_)
            | Self::Spelling
            | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method => StatusCode::NOT_IMPLEMENTED,
            Self::NoEndpoint(NoEndpoint::NoService { .. } | NoEndpoint::NoRegion { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::NoEndpoint(_) | Self::PlainHttp { .. } => StatusCode::BAD_GATEWAY,
            Self::Auth(error) => auth_status(error),
            Self::Upstream(error) => match error {
                upstream::Error::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
                upstream::Error::Client { .. } => StatusCode::BAD_REQUEST,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded | Self::AuditUnavailable | Self::ServiceLimit { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// See [`Reason`].
    pub fn reason(&self) -> Reason {
        Reason(match self {
            Self::Entry(refusal) => refusal.reason(),
            Self::Denied { .. } | Self::Beyond { .. } => "denied",
            Self::Limited { .. } => "too_many_requests",
            Self::Unauthorized { .. } => "bad_token",
            Self::WrongPassword { .. } => "bad_login",
            Self::TooManyLogins { .. } => "too_many_logins",
            Self::TokenScope => "token_scope",
            Self::OwnToken => "own_token",
            Self::Route(RouteError::NoService | RouteError::EmptySelector(_) | RouteError::NoOrigin) => {
                "no_route"
            }
            Self::NoOrigin { .. } => "no_origin",
            Self::UnknownCloud { .. } => "unknown_cloud",
            Self::Route(_) | Self::Target | Self::Framing(_) | Self::Syntax(_) | Self::Spelling => {
                "bad_request"
            }
            Self::Method => "bad_method",
            Self::Body(_) | Self::Upstream(upstream::Error::Client { .. }) => "bad_body",
            Self::TargetTooLong { .. } => "target_too_long",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::NoEndpoint(NoEndpoint::NoService { .. }) => "no_service",
            Self::NoEndpoint(NoEndpoint::NoRegion { .. }) => "no_region",
            Self::NoEndpoint(_) => "no_endpoint",
            Self::PlainHttp { .. } => "plain_http",
            Self::Auth(error) => auth_reason(error),
            Self::Upstream(upstream::Error::Timeout { .. }) => "upstream_timeout",
            Self::Upstream(upstream::Error::Connect { .. }) => "upstream_connect",
            Self::Upstream(upstream::Error::Tls { .. }) => "upstream_tls",
            Self::Upstream(_) => "upstream_broken",
            Self::Late => "head_timeout",
            Self::AuditUnavailable => "audit_unavailable",
            Self::Overloaded => "overloaded",
            Self::ServiceLimit { .. } => "service_limit",
            Self::Internal => "internal",
        })
    }

    /// How long the client should wait before it asks again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Auth(error) if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Some(error.retry_after().unwrap_or(Duration::from_secs(1)).max(Duration::from_secs(1)))
            }
            Self::Overloaded | Self::AuditUnavailable => Some(Duration::from_secs(1)),
            Self::TooManyLogins { wait }
            | Self::ServiceLimit { wait }
            | Self::Limited { exceeded: Exceeded::Rate(wait), .. } => {
                Some((*wait).max(Duration::from_secs(1)))
            }
            Self::Limited { exceeded: Exceeded::Requests, .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl ProxyError {
    /// What keyway made of the request, and what decided that: a rule or a right as the configuration calls it, else
    /// the [`Reason`]. Where keyway was willing and something failed on the way, nothing did.
    pub fn decision(&self) -> (Decision, Option<String>) {
        let reason = || Some(self.reason().as_str().to_owned());
        match self {
            Self::Denied { policy, rule } => (Decision::Denied, Some(format!("policy.{policy}.{rule}"))),
            Self::Beyond { identity, rule } => {
                (Decision::Denied, Some(format!("identity.{identity}.{rule}")))
            }
            Self::Limited { identity, exceeded } => {
                let limit = match exceeded {
                    Exceeded::Rate(_) => "rate",
                    Exceeded::Requests => "requests",
                };
                (Decision::Limited, Some(format!("identity.{identity}.{limit}")))
            }
            Self::TooManyLogins { .. } | Self::ServiceLimit { .. } | Self::Overloaded => {
                (Decision::Limited, reason())
            }
            Self::Unauthorized { why, .. } => (Decision::Unauthorized, Some(why.as_str().to_owned())),
            Self::WrongPassword { .. } => (Decision::Unauthorized, reason()),
            Self::Entry(_)
            | Self::Route(_)
            | Self::Target
            | Self::TargetTooLong { .. }
            | Self::HeadTooLarge { .. }
            | Self::Framing(_)
            | Self::Syntax(_)
            | Self::Method
            | Self::BodyTooLarge { .. }
            | Self::UnknownCloud { .. }
            | Self::NoEndpoint(_)
            | Self::NoOrigin { .. }
            | Self::PlainHttp { .. }
            | Self::TokenScope
            | Self::OwnToken
            | Self::Spelling
            | Self::AuditUnavailable => (Decision::Denied, reason()),
            Self::Body(_) | Self::Auth(_) | Self::Upstream(_) | Self::Late | Self::Internal => {
                (Decision::Allowed, None)
            }
        }
    }

    /// A right of an identity's that does not reach as far as a request.
    #[cold]
    pub fn beyond(identity: &Identity, rule: &'static str) -> Self {
        Self::Beyond { identity: identity.name.clone(), rule }
    }
}

fn too_many(identity: &str, exceeded: Exceeded) -> String {
    match exceeded {
        Exceeded::Rate(_) => format!(
            "identity `{identity}` has more requests per second than its `rate`; send fewer, or have it raised"
        ),
        Exceeded::Requests => format!(
            "identity `{identity}` has as many requests under way as its `requests` allows; wait for some, or have it raised"
        ),
    }
}

fn auth_status(error: &AuthError) -> StatusCode {
    match error.root() {
        AuthError::Unreachable(_)
        | AuthError::Unavailable { .. }
        | AuthError::TooManyRefusals { .. }
        | AuthError::TooManyScopes { .. }
        | AuthError::NoSecret { .. }
        | AuthError::LoginRequired { .. }
        | AuthError::PasscodeUsed { .. }
        | AuthError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        AuthError::Timeout { .. } => match error {
            // Whoever waited for the answer in vain was timed out; who comes later is turned away.
            AuthError::Waiting { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::GATEWAY_TIMEOUT,
        },
        AuthError::UnknownProject { .. } | AuthError::AmbiguousProject { .. } | AuthError::NoSuchCloud => {
            StatusCode::NOT_FOUND
        }
        AuthError::Provider(ProviderError::Timeout { .. }) if !matches!(error, AuthError::Waiting { .. }) => {
            StatusCode::GATEWAY_TIMEOUT
        }
        AuthError::Provider(error) if error.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
        AuthError::ScopeFixed { .. } => StatusCode::FORBIDDEN,
        // Keystone's word to the client, who asked for that scope.
        AuthError::ScopeRefused { status, .. } => {
            StatusCode::from_u16(*status).unwrap_or(StatusCode::UNAUTHORIZED)
        }
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn auth_reason(error: &AuthError) -> &'static str {
    match error.root() {
        AuthError::Unreachable(_) | AuthError::Stopped => "keystone_unreachable",
        AuthError::Timeout { .. } => "keystone_timeout",
        AuthError::Rejected { .. } | AuthError::MoreMethods { .. } => "credentials_rejected",
        AuthError::LoginRequired { .. } | AuthError::NoBrowser { .. } => "login_required",
        AuthError::Provider(error) if error.is_rejection() => "credentials_rejected",
        AuthError::Provider(error) if error.is_temporary() => "identity_provider_unavailable",
        AuthError::Provider(_) => "identity_provider_bad_reply",
        AuthError::NoSecret { .. } | AuthError::PasscodeUsed { .. } => "no_secret",
        AuthError::Unavailable { .. } => "keystone_unavailable",
        AuthError::TooManyRefusals { .. } => "tokens_refused",
        AuthError::UnknownProject { .. } | AuthError::AmbiguousProject { .. } => "unknown_project",
        AuthError::ScopeFixed { .. } => "scope_fixed",
        AuthError::ScopeRefused { .. } => "scope_refused",
        AuthError::TooManyScopes { .. } => "too_many_scopes",
        AuthError::NoSuchCloud => "unknown_cloud",
        AuthError::FixedToken => "token_refused",
        AuthError::NoCatalog { .. } | AuthError::NoTenant | AuthError::ManyTenants { .. } => "no_catalog",
        AuthError::BadReply { .. } | AuthError::AlreadyExpired { .. } | AuthError::NotInV2 { .. } => {
            "keystone_bad_reply"
        }
        AuthError::Waiting { .. } | AuthError::Spent { .. } => "keystone_unavailable",
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// What there is instead of what was asked for.
fn missing(error: &NoEndpoint) -> String {
    match error {
        NoEndpoint::NoService { available, .. } => {
            format!("the catalog has no such service; it has {}", list(available))
        }
        NoEndpoint::NoRegion { available, .. } => {
            format!("the service is in no such region; it is in {}", list(available))
        }
        NoEndpoint::NoInterface { asked, available, .. } => format!(
            "the service has no {} endpoint there; choose an interface of {}",
            list(asked),
            list(available)
        ),
        // These name what the catalog has.
        NoEndpoint::NoCatalog
        | NoEndpoint::NoName { .. }
        | NoEndpoint::NoVersion { .. }
        | NoEndpoint::NoId { .. }
        | NoEndpoint::BadUrl { .. } => error.to_string(),
    }
}

/// What the client may know: no address and no cause, which are in keyway's log.
fn for_client(error: &AuthError) -> String {
    let what = match error.root() {
        AuthError::Unreachable(_) => "Keystone can't be reached, so there is no token",
        AuthError::Timeout { .. } => "Keystone did not answer in time, so there is no token",
        AuthError::Rejected { .. } => "Keystone rejected keyway's credentials, so there is no token",
        AuthError::LoginRequired { .. } => {
            "login required: a person has to run `keyway login` for this cloud where keyway runs, so there is no token"
        }
        AuthError::Provider(ProviderError::NotAccepted { .. }) => {
            "Keystone did not accept what keyway's identity provider gave, so there is no token"
        }
        AuthError::Provider(error) if error.is_rejection() => {
            "the identity provider rejected keyway's credentials, so there is no token"
        }
        AuthError::Provider(error) if error.is_temporary() => {
            "the identity provider is not available, so there is no token"
        }
        AuthError::Provider(_) => "the identity provider's answer was of no use, so there is no token",
        AuthError::Unavailable { .. } => "Keystone is not available, so there is no token",
        AuthError::MoreMethods { .. } => {
            "Keystone wants more than keyway's credentials, so there is no token"
        }
        AuthError::PasscodeUsed { .. } => "the one-time passcode was used already, so there is no token",
        AuthError::NoSecret { .. } => "the secret to log in with is not to be had, so there is no token",
        AuthError::BadReply { .. } | AuthError::AlreadyExpired { .. } => {
            "Keystone's answer was of no use, so there is no token"
        }
        AuthError::Stopped => "keyway is stopping",
        AuthError::UnknownProject { available, .. } => {
            return format!("the user has no such project; there are: {}", list(available));
        }
        AuthError::AmbiguousProject { ids, .. } => {
            return format!("the user has several projects of that name; use an id: {}", list(ids));
        }
        AuthError::ScopeFixed { .. } => {
            return "these credentials belong to one project and can't be used for another; use a password to \
                    reach several projects"
                .to_owned();
        }
        AuthError::ScopeRefused { message, .. } => return message.clone(),
        // These name what there is instead, and hold nothing else.
        named => return named.to_string(),
    };
    let wrong = error.is_rejection() || matches!(error.root(), AuthError::MoreMethods { .. });
    let advice = if wrong {
        "correct them where keyway was started; its log says more"
    } else {
        "try again later; keyway's log says more"
    };
    format!("{what}; {advice}")
}

fn unanswered(error: &upstream::Error) -> &'static str {
    match error {
        upstream::Error::Connect { .. } => {
            "the service can't be reached; try again later, or look into keyway's log"
        }
        upstream::Error::Tls { .. } => {
            "no TLS session with the service; check cacert and the service's certificate (keyway's log says more)"
        }
        upstream::Error::Timeout { .. } => {
            "the service did not answer in time; it may still be at work: look before repeating"
        }
        upstream::Error::Client { .. } => "the request's body ended early or is malformed; send it again",
        upstream::Error::Closed { .. }
        | upstream::Error::Protocol { .. }
        | upstream::Error::TooLarge { .. } => {
            "the service's answer broke off or is not HTTP; it may have acted: look before repeating"
        }
    }
}
