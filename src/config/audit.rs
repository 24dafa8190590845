//! `[audit]`: where each request has a line, and what happens where it can't.

use super::{Layers, Listener};
use crate::audit::{Config, OnFailure, Target};
use crate::facade::Logins;

impl Layers<'_> {
    /// Where a listener serves only those who prove who they are, none of them is served without a line, unless the
    /// operator wants that.
    pub(super) fn audit(&mut self, listeners: &[Listener]) -> Option<Config> {
        let target = self.setting("audit.sink", None, |text| match text {
            "none" => Ok(None),
            text => text.parse().map(Some),
        });
        let is_broker = listeners.iter().any(|listener| listener.logins == Logins::Configured);
        let default = if is_broker { OnFailure::Stop } else { OnFailure::Count };
        let on_failure = self.setting("audit.on_failure", default, |text| match text {
            "stop" => Ok(OnFailure::Stop),
            "count" => Ok(OnFailure::Count),
            _ => Err(format!("`{text}` is neither stop nor count")),
        });
        let target = match target? {
            Target::File(path) => Target::File(self.env.path(path.to_str()?)),
            target => target,
        };
        Some(Config { target, on_failure })
    }
}
