//! Which path at the service does a path at keyway mean?
//!
//! The rest of the client's path is appended to the catalog URL's, byte for byte. Two conveniences,
//! nothing more: a leading version (and project id) that the catalog URL already ends with is not
//! doubled, and a different one replaces it; and where the catalog URL has no version and the rest
//! does not start with one, the service's current version is put in. The operator may have chosen
//! another version than the catalog's: then that one takes the place of the catalog's or of the
//! current one. What a client writes into its path counts whatever anybody chose.

/// A catalog URL's path, taken apart: `{root}/{version}/{account}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What comes before the version; empty, or a path that starts with `/`.
    root: String,
    /// `/v2.1`, or empty.
    version: String,
    /// What follows the version: `/{project id}`, `/AUTH_{project id}`, or empty.
    account: String,
    /// What the account has before the project's id: `/` or `/AUTH_`.
    account_mark: String,
    /// The token's project.
    project: Option<String>,
    /// The operator chose another version than this one, so the service has to be asked for it.
    other_version: bool,
}

/// What a path has below an endpoint, see [`Base::below`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below<'s, 'p> {
    /// Its segments.
    pub segments: &'s [&'p [u8]],
    /// The id of the project that came before them, where the endpoint has one.
    pub project: Option<&'p [u8]>,
    /// The id in the first of the segments, where that may be a project: the endpoint has none, or one behind
    /// a version that the path does not have.
    pub may_have_project: Option<&'p [u8]>,
    /// The endpoint has a version, and the path has this very one.
    pub versioned: bool,
}

impl Base {
    /// Takes a catalog URL's path apart. `path` does not end in `/`; `project` is the token's.
    pub fn new(path: &str, project: Option<&str>) -> Self {
        let whole = |root: &str| Self {
            root: root.to_owned(),
            version: String::new(),
            account: String::new(),
            account_mark: String::new(),
            project: project.map(str::to_owned),
            other_version: false,
        };
        let Some((before, last)) = cut_last(path) else { return whole(path) };
        if is_version(&last[1..]) {
            return Self { version: last.to_owned(), ..whole(before) };
        }
        // The last segment is an account if it is the project's id, or follows a version and ends with an id.
        let Some((root, version)) = cut_last(before).filter(|(_, version)| is_version(&version[1..])) else {
            let own = project.is_some_and(|id| last[1..] == *id && !id.is_empty());
            let (account, account_mark) = (last.to_owned(), "/".to_owned());
            return if own { Self { account, account_mark, ..whole(before) } } else { whole(path) };
        };
        let id =
            project.filter(|id| !id.is_empty() && last.ends_with(id)).map_or_else(|| id_in(last), str::len);
        if id == 0 {
            return whole(path);
        }
        Self {
            version: version.to_owned(),
            account: last.to_owned(),
            account_mark: last[..last.len() - id].to_owned(),
            ..whole(root)
        }
    }

    /// The same, where the operator chose a major version for requests that name none. A catalog URL that
    /// has it already, in whichever minor version, stays as it is.
    pub fn wanting(self, major: Option<u32>) -> Self {
        let own = self.version.strip_prefix("/v").and_then(|number| number.split('.').next()?.parse().ok());
        Self { other_version: own.is_some() && major.is_some() && own != major, ..self }
    }

    /// Whether the service has to be asked for its versions to serve `rest`: for the current one, or the
    /// one that the operator chose.
    pub fn needs_version(&self, rest: &str) -> bool {
        (self.version.is_empty() || self.other_version)
            && !matches!(rest, "" | "/")
            && version_of(rest).is_none()
    }

    /// The path at the service, for a `rest` that is empty or starts with `/`; never empty.
    /// `current` is the path segment of the service's current or chosen version (`v2`, or nothing if that
    /// is at the root), which is asked for with [`Base::needs_version`].
    pub fn target(&self, rest: &str, current: Option<&str>) -> String {
        let pieces = self.pieces(rest, current);
        let mut target = String::with_capacity(pieces.iter().map(|piece| piece.len()).sum::<usize>().max(1));
        pieces.iter().for_each(|piece| target.push_str(piece));
        if target.is_empty() {
            target.push('/');
        }
        target
    }

    /// Whether that is the [target](Base::target) of a `rest`, without a current version.
    pub fn leads_to(&self, rest: &str, target: &str) -> bool {
        // Comparing with an empty one, which lies nowhere, takes longer than all the rest.
        let pieces = self.pieces(rest, None).into_iter().filter(|piece| !piece.is_empty());
        let mut left = target;
        for piece in pieces {
            let Some(after) = left.strip_prefix(piece) else { return false };
            left = after;
        }
        left.is_empty() && !target.is_empty() || (left, target) == ("/", "/")
    }

    /// What a target consists of.
    #[inline]
    fn pieces<'a>(&'a self, rest: &'a str, current: Option<&'a str>) -> [&'a str; 6] {
        let Self { root, version, account, .. } = self;
        match version_of(rest) {
            Some(asked) if !version.is_empty() || !account.is_empty() => {
                let after = &rest[asked.len()..];
                // The version alone is its document, which lies outside any account.
                let outside = matches!(after, "" | "/") || self.starts_with_account(after);
                [root, asked, if outside { "" } else { account }, "", "", after]
            }
            _ => match current.filter(|_| self.needs_version(rest)) {
                None => [root, version, account, "", "", rest],
                Some("") => [root, "", account, "", "", rest],
                Some(current) => [root, "/", current, account, "", rest],
            },
        }
    }

    /// What comes before the version, where the service says which versions it has; empty, or a path that starts
    /// with `/`.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The version with a `/` in front, such as `/v2.1`; empty where the catalog URL has none.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What a path at the service, given by its segments, has below this endpoint: without root,
    /// version and account. `None` if it lies outside of the root.
    pub fn below<'s, 'p>(&self, path: &'s [&'p [u8]]) -> Option<Below<'s, 'p>> {
        let mut segments = path;
        for root in self.root.split('/').skip(1) {
            segments = segments.split_first().filter(|(first, _)| **first == root.as_bytes())?.1;
        }
        let text = |segment: &'p [u8]| std::str::from_utf8(segment).unwrap_or_default();
        let (mut has_version, mut versioned) = (false, false);
        if let [first, after @ ..] = segments
            && is_version(text(first))
        {
            has_version = true;
            versioned = self.version.strip_prefix('/') == Some(text(first));
            segments = after;
        }
        let first = segments.first().map_or("", |first| text(first));
        let without = Below { segments, project: None, may_have_project: None, versioned };
        let Some(account) = self.account.strip_prefix('/') else {
            let own = !first.is_empty() && self.project.as_deref() == Some(first);
            let id = (own || is_id(first)).then_some(first.as_bytes());
            return Some(Below { may_have_project: id, ..without });
        };
        let id = first.strip_prefix(&self.account_mark[1..]).filter(|id| first == account || is_id(id));
        let id = id.map(str::as_bytes);
        if self.has_version() && !has_version {
            return Some(Below { may_have_project: id, ..without });
        }
        Some(match id {
            Some(_) => Below { segments: &segments[1..], project: id, ..without },
            None => without,
        })
    }

    /// Whether it has a version, as opposed to a service's root.
    pub fn has_version(&self) -> bool {
        !self.version.is_empty()
    }

    /// Whether the client wrote an account by itself: this one, or another of the same kind.
    fn starts_with_account(&self, after: &str) -> bool {
        let end = after[1..].find('/').map_or(after.len(), |end| end + 1);
        let first = &after[..end];
        if self.account.is_empty() {
            return true;
        }
        first == self.account
            || first
                .strip_prefix(self.account_mark.as_str())
                .is_some_and(|id| !id.is_empty() && id_in(first) == id.len())
    }
}

/// `/a/b/c` into `/a/b` and `/c`.
fn cut_last(path: &str) -> Option<(&str, &str)> {
    path.rfind('/').filter(|at| at + 1 < path.len()).map(|at| path.split_at(at))
}

/// `/v2.1` of `/v2.1/servers`.
fn version_of(rest: &str) -> Option<&str> {
    let first = rest.strip_prefix('/')?;
    let end = first.bytes().position(|byte| byte == b'/').unwrap_or(first.len());
    is_version(&first[..end]).then(|| &rest[..=end])
}

/// `v2`, `v2.1`: what the API guidelines call a version in a path.
pub fn is_version(segment: &str) -> bool {
    let Some(number) = segment.strip_prefix('v') else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match number.split_once('.') {
        None => digits(number),
        Some((major, minor)) => digits(major) && digits(minor),
    }
}

/// Whether a segment is a project's id, as Keystone makes them.
pub fn is_id(segment: &str) -> bool {
    !segment.is_empty() && id_in(segment) == segment.len()
}

/// The length of the project id that a text ends with: 32 hex digits, or a UUID with dashes. 0 for none.
fn id_in(text: &str) -> usize {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for length in [36, 32] {
        let Some(id) = text.len().checked_sub(length).and_then(|from| text.get(from..)) else { continue };
        let dashed = || id.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && id.split('-').all(hex);
        if if length == 32 { hex(id) } else { dashed() } {
            return length;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    #[track_caller]
    fn check(catalog: &str, rest: &str, target: &str) {
        let fill = |text: &str| text.replace("{id}", ID).replace("{other}", OTHER);
        let base = Base::new(&fill(catalog), Some(ID));
        assert_eq!(base.target(&fill(rest), Some("v2")), fill(target), "{catalog} + {rest}");
    }

    #[test]
    fn the_rest_is_appended() {
        check("/v2.1", "/servers", "/v2.1/servers");
        check("/compute/v2.1", "/servers/", "/compute/v2.1/servers/");
        check("/v3/{id}", "/volumes", "/v3/{id}/volumes");
        check("/v1/AUTH_{id}", "/c/a%2Fb//c", "/v1/AUTH_{id}/c/a%2Fb//c");
        check("/v1/AUTH_{id}", "//c", "/v1/AUTH_{id}//c");
    }

    #[test]
    fn the_service_alone_is_the_endpoint() {
        check("/v2.1", "", "/v2.1");
        check("/v2.1", "/", "/v2.1/");
        check("", "", "/");
        check("", "/", "/");
        check("/image", "", "/image");
        check("/v1/AUTH_{id}", "", "/v1/AUTH_{id}");
    }

    #[test]
    fn a_version_is_not_doubled() {
        check("/v2.1", "/v2.1/servers", "/v2.1/servers");
        check("/v2.1", "/v2.1", "/v2.1");
        check("/v2.1", "/v2.1/", "/v2.1/");
        check("/v3/{id}", "/v3/{id}/volumes", "/v3/{id}/volumes");
        check("/v3/{id}", "/v3/volumes", "/v3/{id}/volumes");
        check("/v3/{id}", "/v3/", "/v3/");
        check("/v1/AUTH_{id}", "/v1/AUTH_{id}/c", "/v1/AUTH_{id}/c");
        check("/v1/AUTH_{id}", "/v1/AUTH_{id}", "/v1/AUTH_{id}");
        check("/v1/AUTH_{id}", "/v1/c/o", "/v1/AUTH_{id}/c/o");
        check("/v2.1", "/v2.1/{id}/servers", "/v2.1/{id}/servers");
    }

    #[test]
    fn a_different_version_or_account_replaces_it() {
        check("/v2.1", "/v2/servers", "/v2/servers");
        check("/x/v3/{id}", "/v2/volumes", "/x/v2/{id}/volumes");
        check("/v3/{id}", "/v2/{id}/volumes", "/v2/{id}/volumes");
        check("/v3/{id}", "/v3/{other}/volumes", "/v3/{other}/volumes");
        check("/v1/AUTH_{id}", "/v1/AUTH_{other}/c", "/v1/AUTH_{other}/c");
        check("/v1/AUTH_{id}", "/v1/{other}/c", "/v1/AUTH_{id}/{other}/c");
    }

    #[test]
    fn the_current_version_is_put_in_where_there_is_none() {
        check("", "/images", "/v2/images");
        check("/image", "/images", "/image/v2/images");
        check("", "/v1/images", "/v1/images");
        check("", "/v2", "/v2");
        check("/image", "/v2/images", "/image/v2/images");
        check("/v2beta", "/images", "/v2beta/v2/images");
        let base = Base::new("", None);
        assert_eq!(base.target("/resource_providers", None), "/resource_providers");
        assert!(base.needs_version("/images") && !base.needs_version("/") && !base.needs_version("/v1/x"));
    }

    #[test]
    fn the_version_that_the_operator_chose_takes_the_place_of_the_catalogs() {
        let base = |catalog: &str, major| Base::new(&catalog.replace("{id}", ID), Some(ID)).wanting(major);
        let target =
            |catalog: &str, rest: &str| base(catalog, Some(2)).target(rest, Some("v2.0")).replace(ID, "{id}");
        assert_eq!(target("/x/v3/{id}", "/volumes"), "/x/v2.0/{id}/volumes");
        assert_eq!(target("/v1", "/images/"), "/v2.0/images/");
        assert_eq!(target("", "/networks"), "/v2.0/networks");
        // It has that already, or the client says what it means.
        assert_eq!(target("/v2.1", "/servers"), "/v2.1/servers");
        assert_eq!(target("/v3", "/v1/images"), "/v1/images");
        assert_eq!(target("/v3", "/"), "/v3/");
        assert_eq!(target("/volume/{id}", "/volumes"), "/volume/v2.0/{id}/volumes");
        assert_eq!(target("/{id}", "/v1/volumes"), "/v1/{id}/volumes");
        assert_eq!(base("/{id}", None).target("/volumes", None), format!("/{ID}/volumes"));
        assert_eq!(base("/x/v3/{id}", Some(1)).target("/volumes", Some("")), format!("/x/{ID}/volumes"));
        assert_eq!(base("/x", Some(1)).target("/volumes", Some("")), "/x/volumes");
        // There is none such, so the catalog's stays.
        assert_eq!(base("/v3/{id}", Some(2)).target("/volumes", None), format!("/v3/{ID}/volumes"));
        assert!(base("/v3", Some(2)).needs_version("/x") && !base("/v3", Some(3)).needs_version("/x"));
        assert!(!base("/v3", None).needs_version("/x") && !base("/v3", Some(2)).needs_version("/v3/x"));
    }

    #[track_caller]
    fn check_below(catalog: &str, path: &str, below: Option<(&str, Option<&str>, bool)>) {
        let fill = |text: &str| text.replace("{id}", ID).replace("{other}", OTHER);
        let (catalog, path) = (fill(catalog), fill(path));
        let segments: Vec<&[u8]> = path.split('/').skip(1).map(str::as_bytes).collect();
        let base = Base::new(&catalog, Some(ID));
        let got = base.below(&segments).map(|below| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let segments: Vec<_> = below.segments.iter().map(|segment| text(segment)).collect();
            (segments.join("/"), below.project.map(text), below.may_have_project.is_some())
        });
        let expected = below.map(|(rest, project, maybe)| (fill(rest), project.map(fill), maybe));
        assert_eq!(got, expected, "{catalog} {path}");
    }

    #[test]
    fn what_a_target_has_below_the_endpoint() {
        check_below("/v2.1", "/v2.1/servers/1", Some(("servers/1", None, false)));
        check_below("/v2.1", "/v2/servers", Some(("servers", None, false)));
        check_below("/v2.1", "/v2.1/{id}/servers", Some(("{id}/servers", None, true)));
        check_below("/v2.1", "/v2.1/{other}/servers", Some(("{other}/servers", None, true)));
        check_below("/v2.1", "/v2.1", Some(("", None, false)));
        check_below("/x/v3/{id}", "/x/v3/{id}/volumes", Some(("volumes", Some("{id}"), false)));
        check_below("/v3/{id}", "/v3/{other}/volumes", Some(("volumes", Some("{other}"), false)));
        check_below("/v3/{id}", "/v3/", Some(("", None, false)));
        check_below("/x/v3/{id}", "/x/{other}/volumes", Some(("{other}/volumes", None, true)));
        check_below("/x/{id}", "/x/{other}/volumes", Some(("volumes", Some("{other}"), false)));
        check_below("/v1/AUTH_{id}", "/v1/AUTH_{id}/c/v1", Some(("c/v1", Some("{id}"), false)));
        check_below("/v1/AUTH_{id}", "/v1/{other}/c", Some(("{other}/c", None, false)));
        check_below("", "/v2/images", Some(("images", None, false)));
        check_below("/image", "/image/images", Some(("images", None, false)));
        check_below("/image", "/imagery/images", None);
        check_below("/image", "/images", None);
    }

    #[test]
    fn an_unusual_account_is_known_by_the_tokens_project() {
        let base = Base::new("/v1/KEY_default", Some("default"));
        assert_eq!(base.target("/v1/KEY_default/c", None), "/v1/KEY_default/c");
        assert_eq!(base.target("/c", None), "/v1/KEY_default/c");
    }

    proptest! {
        #[test]
        fn without_a_version_in_it_the_rest_arrives_byte_for_byte(
            rest in "(/[a-zA-Z0-9%._~-]{0,6}){1,5}",
            base in prop::sample::select(vec!["/v2.1", "/v3/0123456789abcdef0123456789abcdef", "/a/v1/AUTH_x"]),
        ) {
            prop_assume!(version_of(&rest).is_none());
            let target = Base::new(base, Some("x")).target(&rest, Some("v9"));
            if base != "/a/v1/AUTH_x" || !target.contains("v9") {
                prop_assert_eq!(target, format!("{base}{rest}"));
            }
        }

        #[test]
        fn a_target_is_always_an_absolute_path(base in "(/(v[0-9.]{0,3}|[a-f0-9]{32}|[a-z_]{0,4})){0,4}", rest in "(/[v0-9a-z.]{0,4}){0,4}") {
            let base = base.trim_end_matches('/');
            prop_assert!(Base::new(base, None).target(&rest, Some("v2")).starts_with('/'));
        }

        #[test]
        fn a_rest_leads_to_its_target_alone(base in "(/(v[0-9]|[a-f0-9]{32}|[a-z_]{1,4})){0,3}", rest in "(/(v[0-9]|[a-f0-9]{32}|[a-z.]{0,4})){0,3}", other in "(/[v0-9a-z.]{0,4}){0,3}") {
            let base = Base::new(&base, None);
            let target = base.target(&rest, None);
            prop_assert!(base.leads_to(&rest, &target));
            for other in [other.clone(), format!("{target}{other}"), format!("{target}/"), String::new(), target[1..].to_owned()] {
                prop_assert_eq!(base.leads_to(&rest, &other), other == target);
            }
        }
    }
}
