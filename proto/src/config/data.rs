//! `[data]`: where state lives, and what seals it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// `[data]`: where state lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// RocksDB, journals and the control socket.
    pub dir: PathBuf,
    /// The file of the key that seals credentials; made at the first start. Absent, as its two other sources are:
    /// `master.key` in `dir`.
    pub master_key_file: Option<PathBuf>,
    /// The environment variable that holds the master key, in place of a file.
    pub master_key_env: Option<String>,
    /// The program, with its arguments, that prints the master key, in place of a file. No shell reads it.
    pub master_key_command: Option<Vec<String>>,
    /// The longest a program that prints a master key may take, in seconds.
    pub master_key_timeout_s: u64,
    /// The file of the master key before, to which a start may fall back and rotate from.
    pub old_master_key_file: Option<PathBuf>,
    /// The environment variable that holds the master key before.
    pub old_master_key_env: Option<String>,
    /// The program that prints the master key before.
    pub old_master_key_command: Option<Vec<String>>,
    /// What admin tokens are hashed with; made at the first start. Absent: beside `dir`, with `.pepper` behind its
    /// name.
    pub admin_pepper_file: Option<PathBuf>,
    /// How far store and journals had come, so that an older copy is not started. It should be on
    /// another disk than `dir`. Absent: beside `dir`, with `.anchor` behind its name.
    pub anchor_file: Option<PathBuf>,
    /// The length of a journal's file, in bytes.
    pub journal_segment_bytes: u64,
    /// The most files of one worker's journal.
    pub journal_segments_max: usize,
}

impl Default for Data {
    fn default() -> Data {
        Data {
            dir: PathBuf::from("./data"),
            master_key_file: None,
            master_key_env: None,
            master_key_command: None,
            master_key_timeout_s: 10,
            old_master_key_file: None,
            old_master_key_env: None,
            old_master_key_command: None,
            admin_pepper_file: None,
            anchor_file: None,
            journal_segment_bytes: 8 * 1024 * 1024,
            journal_segments_max: 16,
        }
    }
}

/// Where a master key comes from (rule R2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file for its owner only.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
    /// What a program prints.
    Command(Vec<String>),
}

impl Data {
    /// Where the master key comes from.
    pub fn master_key(&self) -> KeySource {
        let named = source(
            self.master_key_file.as_ref(),
            self.master_key_env.as_ref(),
            self.master_key_command.as_ref(),
        );
        named.unwrap_or_else(|| KeySource::File(self.dir.join("master.key")))
    }

    /// Where the master key before comes from, if it is still told.
    pub fn old_master_key(&self) -> Option<KeySource> {
        source(
            self.old_master_key_file.as_ref(),
            self.old_master_key_env.as_ref(),
            self.old_master_key_command.as_ref(),
        )
    }

    /// The variables of the environment that hold master keys.
    pub fn master_key_variables(&self) -> impl Iterator<Item = &String> {
        self.master_key_env.iter().chain(&self.old_master_key_env)
    }

    /// Where the control socket is.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join(crate::control::SOCKET_NAME)
    }

    /// Where revokes wait for a dataplane that is down.
    pub fn revoke_spool(&self) -> PathBuf {
        self.dir.join(crate::control::SPOOL_NAME)
    }

    /// Where RocksDB is.
    pub fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Where the journals are.
    pub fn journal_dir(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Where the high-water mark is.
    pub fn anchor_file(&self) -> PathBuf {
        self.anchor_file.clone().unwrap_or_else(|| self.beside(".anchor"))
    }

    /// Where the admin token made at the first start is.
    pub fn admin_token_file(&self) -> PathBuf {
        self.dir.join("admin.token")
    }

    /// Where the digests of admin tokens are.
    pub fn admin_tokens_file(&self) -> PathBuf {
        self.dir.join("admin.tokens")
    }

    /// Where the key of those digests is: not beside them.
    pub fn admin_pepper_file(&self) -> PathBuf {
        self.admin_pepper_file.clone().unwrap_or_else(|| self.beside(".pepper"))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        // The path's own last part may be `..`; components make it a name.
        let dir: PathBuf = self.dir.components().collect();
        let mut name = dir.into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }
}

fn source(file: Option<&PathBuf>, env: Option<&String>, command: Option<&Vec<String>>) -> Option<KeySource> {
    let file = file.map(|path| KeySource::File(path.clone()));
    let env = || env.map(|name| KeySource::Env(name.clone()));
    file.or_else(env).or_else(|| command.map(|command| KeySource::Command(command.clone())))
}

/// Refuses sources of a master key that cannot be.
pub(super) fn check(data: &Data) -> Result<(), ConfigError> {
    let refuse = |key: &str, problem: &str| Err(ConfigError::value(format!("data.{key}"), problem));
    let current =
        (&data.master_key_file, &data.master_key_env, &data.master_key_command, "master_key_command");
    let old = (
        &data.old_master_key_file,
        &data.old_master_key_env,
        &data.old_master_key_command,
        "old_master_key_command",
    );
    for (file, env, command, key) in [current, old] {
        let file_key = key.replace("command", "file");
        let given = [file.is_some(), env.is_some(), command.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            return refuse(&file_key, "give one of the file, the variable (_env) and the program (_command)");
        }
        if !env.as_deref().is_none_or(super::check::is_variable) {
            let problem = "must be the name of an environment variable, in capitals, and not the key";
            return refuse(&key.replace("command", "env"), problem);
        }
        if command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
            return refuse(key, "must be a list of texts: a program and its arguments");
        }
    }
    if !(1..=60).contains(&data.master_key_timeout_s) {
        return refuse("master_key_timeout_s", "must be between 1 and 60 seconds");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    /// What a `[data]` section of these lines is, or says.
    fn check(lines: &str, expected: Result<KeySource, &str>) {
        let text = format!("[data]\n{lines}\n[[vendor]]\nname = \"stripe\"\nbase_url = \"https://x.test\"\n");
        let found = Config::parse(&text, std::iter::empty()).map(|config| config.data.master_key());
        match (found.map_err(|error| error.to_string()), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{lines}"),
            (Err(said), Err(expected)) => assert!(said.contains(expected), "{lines}: {said}"),
            (found, expected) => panic!("{lines}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn r2_the_master_key_has_one_source() {
        check("", Ok(KeySource::File(PathBuf::from("./data/master.key"))));
        check("master_key_file = \"/k\"", Ok(KeySource::File(PathBuf::from("/k"))));
        check("master_key_env = \"MASTER_KEY\"", Ok(KeySource::Env("MASTER_KEY".to_owned())));
        let program = vec!["/bin/kms".to_owned(), "get".to_owned()];
        check("master_key_command = [\"/bin/kms\", \"get\"]", Ok(KeySource::Command(program)));
        check("master_key_file = \"/k\"\nmaster_key_env = \"K\"", Err("data.master_key_file: give one"));
        check(
            "old_master_key_env = \"K\"\nold_master_key_command = [\"k\"]",
            Err("data.old_master_key_file"),
        );
        check("master_key_env = \"00ff00ff\"", Err("data.master_key_env: must be the name"));
        check("master_key_command = []", Err("data.master_key_command"));
        check("master_key_command = \"/bin/kms get\"", Err("master_key_command"));
        check("master_key_timeout_s = 0", Err("data.master_key_timeout_s"));
    }

    #[test]
    fn a_master_key_before_is_told_apart() {
        let data = Data { old_master_key_env: Some("OLD".to_owned()), ..Data::default() };
        assert_eq!(data.old_master_key(), Some(KeySource::Env("OLD".to_owned())));
        assert_eq!(Data::default().old_master_key(), None);
        assert_eq!(data.master_key_variables().collect::<Vec<_>>(), ["OLD"]);
        assert_eq!(data.admin_pepper_file(), PathBuf::from("./data.pepper"));
    }
}
