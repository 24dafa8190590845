//! What did a person's login leave behind?
//!
//! Some logins need a person: with a browser, or with a passcode to type. `keyway login` goes through them once and
//! leaves the unscoped token that came of it in the state directory, sealed and for its owner only, where every
//! `keyway` of that user finds it: a running one gets all its tokens with it until it ends, or is renewed with what
//! the identity provider gave for that. Nobody is asked anything here.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{Method, Secret, TokenId};
use crate::private::{self, Key, Lock, NO_CHANGE, NOTHING};
use crate::upstream::BaseUrl;

/// How a file begins.
const MAGIC: &[u8; 16] = b"keyway login v1\n";

/// How large a file may be, bytes.
const LARGEST: u64 = 64 << 10;

/// How long one waits for another keyway that is about to change what was left, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(25);

/// Who is needed for a login, and where others find what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The cloud's name, which a person logs in to.
    pub cloud: String,
    /// Where the login's token lies; known once the whole configuration is.
    pub place: Option<Place>,
}

impl Person {
    /// The one who logs in to a cloud of this name.
    pub fn of(cloud: &str) -> Self {
        Self { cloud: cloud.to_owned(), place: None }
    }
}

/// What tells a login from the next one. Renewal does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginId([u8; 16]);

impl LoginId {
    /// That of a login which was just gone through.
    pub fn random() -> Self {
        Self(private::random())
    }
}

/// Where a login's token lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    state: PathBuf,
    /// What tells logins apart.
    login: Vec<String>,
}

/// An unscoped token that somebody logged in for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of which login it came.
    pub login: LoginId,
    /// The token.
    pub token: TokenId,
    /// What the identity provider gave to renew it without the person, if it did.
    pub refresh: Option<Secret>,
    /// Whose it is, as Keystone calls them.
    pub user: Option<String>,
    /// When it came, by this machine's clock.
    pub since: SystemTime,
    /// When it ends, by the same.
    pub ends: SystemTime,
}

impl Kept {
    /// What is left of its life; `None` once it is over.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        self.ends.duration_since(now).ok().filter(|left| !left.is_zero())
    }

    /// Whether somebody has to log in again before anything works.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.left(now).is_none() && self.refresh.is_none()
    }

    /// Whether it ends so soon that somebody should log in again.
    pub fn ends_soon(&self, now: SystemTime) -> bool {
        // Not before the first renewal of what it was exchanged for, and early enough to do something.
        let soon = (self.whole() / 5).max(Duration::from_secs(150));
        self.refresh.is_none() && self.left(now).is_none_or(|left| left <= soon)
    }

    /// Whether it is time to renew it: what it is exchanged for ends with it.
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.left(now).is_none_or(|left| left <= self.whole() / 5)
    }

    fn whole(&self) -> Duration {
        self.ends.duration_since(self.since).unwrap_or_default()
    }
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Sealed {
    login: LoginId,
    token: String,
    refresh: Option<String>,
    user: Option<String>,
    since: u64,
    ends: u64,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.token.zeroize();
        self.refresh.zeroize();
    }
}

impl Place {
    /// In the state directory, for this login at this Keystone. Clouds that log in alike share it, whatever their
    /// projects.
    pub fn new(state: &Path, auth_url: &BaseUrl, method: &Method) -> Self {
        let mut login = vec![auth_url.to_string()];
        login.extend(method.label());
        Self { state: state.to_owned(), login }
    }

    fn key_file(&self) -> PathBuf {
        self.state.join("login-key")
    }

    /// The file, whose name tells nobody anything.
    fn file(&self, key: &Key) -> (String, PathBuf) {
        let parts: Vec<_> =
            ["name"].into_iter().chain(self.login.iter().map(String::as_str)).map(str::as_bytes).collect();
        let hash = private::derive(key, &parts);
        let name: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.state.join("logins").join(&name);
        (name, path)
    }

    fn keys(&self) -> Result<Option<Vec<Key>>, private::Error> {
        private::check_directory(&self.state, NO_CHANGE)?;
        private::read_keys(&self.key_file(), NOTHING)
    }

    /// The token, if somebody left one, also if it is over. What can't be opened is none.
    ///
    /// # Errors
    /// Others may have had a hand in it, or the system says no.
    pub fn load(&self) -> Result<Option<Kept>, private::Error> {
        let Some(key) = self.keys()?.and_then(|keys| keys.into_iter().next()) else { return Ok(None) };
        let (name, path) = self.file(&key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(private::Error::system(&path)(error)),
        };
        let metadata = file.metadata().map_err(private::Error::system(&path))?;
        private::check_owner(&path, &metadata, NOTHING)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        file.take(LARGEST).read_to_end(&mut bytes).map_err(private::Error::system(&path))?;
        Ok(open(&key, &name, &mut bytes))
    }

    /// The right to change it. Whoever does not get it in time goes on without: the other one hangs.
    ///
    /// # Errors
    /// As with [`Place::load`].
    pub async fn lock(&self) -> Result<Option<Lock>, private::Error> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let place = self.clone();
            let tried = tokio::task::spawn_blocking(move || place.try_lock()).await;
            match tried.unwrap_or(Ok(None))? {
                None if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
                lock => return Ok(lock),
            }
        }
    }

    fn try_lock(&self) -> Result<Option<Lock>, private::Error> {
        let (name, path) = self.file(&self.sealing_key()?);
        let path = path.with_file_name(format!("{name}.lock"));
        Lock::take(&path).map_err(private::Error::system(&path))
    }

    /// The key that seals, which is made where there is none.
    fn sealing_key(&self) -> Result<Key, private::Error> {
        let keys = match self.keys()? {
            Some(keys) => keys,
            None => private::write_key(&self.key_file(), &Key::new(private::random()))?,
        };
        Ok(keys[0].clone())
    }

    /// Leaves a token, in the place of any other.
    ///
    /// # Errors
    /// As with [`Place::load`].
    pub fn save(&self, kept: &Kept) -> Result<(), private::Error> {
        let key = self.sealing_key()?;
        let (name, path) = self.file(&key);
        let directory = self.state.join("logins");
        let saved = private::make_directory(&directory)
            .and_then(|()| private::replace(&path, &close(&key, &name, kept)));
        saved.map_err(private::Error::system(&path))
    }

    /// Removes it; whether there was one.
    ///
    /// # Errors
    /// As with [`Place::load`].
    pub fn forget(&self) -> Result<bool, private::Error> {
        let Some(key) = self.keys()?.and_then(|keys| keys.into_iter().next()) else { return Ok(false) };
        let (_, path) = self.file(&key);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(private::Error::system(&path)(error)),
        }
    }
}

fn cipher(key: &Key) -> LessSafeKey {
    let derived = private::derive(key, &[b"contents"]);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derived.as_ref()).expect("it is as long as its keys are"))
}

/// Beginning, nonce, and what is sealed for this file's name.
fn close(key: &Key, name: &str, kept: &Kept) -> Vec<u8> {
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let sealed = Sealed {
        login: kept.login,
        refresh: kept.refresh.as_ref().map(|refresh| refresh.expose().to_owned()),
        token: kept.token.expose().to_owned(),
        user: kept.user.clone(),
        since: seconds(kept.since),
        ends: seconds(kept.ends),
    };
    let text = Zeroizing::new(serde_json::to_vec(&sealed).expect("texts and numbers are JSON"));
    let nonce: [u8; NONCE_LEN] = private::random();
    // What holds the token may not grow: it would leave a copy behind.
    let mut contents = Vec::with_capacity(text.len() + AES_256_GCM.tag_len());
    contents.extend_from_slice(&text);
    let nonce_of_it = Nonce::assume_unique_for_key(nonce);
    cipher(key)
        .seal_in_place_append_tag(nonce_of_it, Aad::from(name.as_bytes()), &mut contents)
        .expect("it is not that long");
    [&MAGIC[..], &nonce, &contents].concat()
}

fn open(key: &Key, name: &str, file: &mut [u8]) -> Option<Kept> {
    let (magic, rest) = file.split_at_mut_checked(MAGIC.len())?;
    let (nonce, contents) = rest.split_at_mut_checked(NONCE_LEN)?;
    if magic != MAGIC {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let text = cipher(key).open_in_place(nonce, Aad::from(name.as_bytes()), contents).ok()?;
    let sealed: Sealed = serde_json::from_slice(text).ok()?;
    let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Some(Kept {
        login: sealed.login,
        refresh: sealed.refresh.as_deref().map(Secret::new),
        token: TokenId::new(&sealed.token).ok()?,
        user: sealed.user.clone(),
        since: time(sealed.since)?,
        ends: time(sealed.ends)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn place(state: &Path, login: &str) -> Place {
        Place { state: state.to_owned(), login: vec![login.to_owned()] }
    }

    fn kept(token: &str) -> Kept {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let ends = since + Duration::from_secs(3600);
        let (login, refresh) = (LoginId([3; 16]), Some(Secret::new("canaryRefresh")));
        Kept {
            login,
            token: TokenId::new(token).unwrap(),
            refresh,
            user: Some("ada".to_owned()),
            since,
            ends,
        }
    }

    // Promise 84.
    #[test]
    fn a_token_is_left_sealed_and_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let (one, other) = (place(&state, "one"), place(&state, "other"));
        assert!(one.load().unwrap().is_none() && !one.forget().unwrap());
        one.save(&kept("canaryUnscoped")).unwrap();
        assert_eq!(one.load().unwrap(), Some(kept("canaryUnscoped")));
        assert!(other.load().unwrap().is_none());
        one.save(&kept("another")).unwrap();
        assert_eq!(one.load().unwrap(), Some(kept("another")));
        let files: Vec<_> =
            fs::read_dir(state.join("logins")).unwrap().map(|file| file.unwrap().path()).collect();
        let [file] = &files[..] else { panic!("{files:?}") };
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(state.join("logins")).unwrap().permissions().mode() & 0o777, 0o700);
        let bytes = fs::read(file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("another") && !text.contains("canaryRefresh"));

        fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(one.load().unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(one.forget().unwrap() && one.load().unwrap().is_none() && !one.forget().unwrap());
    }

    #[test]
    fn what_is_damaged_or_of_another_login_is_none() {
        let key = Key::new([7; 32]);
        let whole = close(&key, "name", &kept("t"));
        assert_eq!(open(&key, "name", &mut whole.clone()), Some(kept("t")));
        assert!(open(&key, "other", &mut whole.clone()).is_none());
        assert!(open(&Key::new([8; 32]), "name", &mut whole.clone()).is_none());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(open(&key, "name", &mut changed).is_none(), "{at}");
            assert!(open(&key, "name", &mut whole[..at].to_vec()).is_none(), "{at}");
        }
    }

    #[test]
    fn a_login_ends_soon_before_it_ends() {
        let renewed = kept("t");
        let kept = Kept { refresh: None, ..kept("t") };
        let at = |seconds| kept.since + Duration::from_secs(seconds);
        for (seconds, soon, left) in
            [(0, false, Some(3600)), (2800, false, Some(800)), (2900, true, Some(700)), (3600, true, None)]
        {
            assert_eq!(kept.ends_soon(at(seconds)), soon, "{seconds}");
            assert_eq!(kept.left(at(seconds)).map(|left| left.as_secs()), left);
            assert_eq!(kept.is_over(at(seconds)), left.is_none());
            // What can be renewed needs nobody.
            assert!(!renewed.ends_soon(at(seconds)) && !renewed.is_over(at(seconds)));
            assert_eq!(renewed.is_due(at(seconds)), soon, "{seconds}");
        }
    }

    #[tokio::test]
    async fn one_at_a_time_changes_what_was_left() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let (one, other) = (place(&state, "one"), place(&state, "other"));
        let lock = one.lock().await.unwrap().unwrap();
        assert!(one.try_lock().unwrap().is_none());
        assert!(other.try_lock().unwrap().is_some());
        drop(lock);
        assert!(one.try_lock().unwrap().is_some());
        assert_eq!(fs::read_dir(state.join("logins")).unwrap().count(), 0);
    }
}
