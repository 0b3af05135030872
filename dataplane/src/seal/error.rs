//! Why nothing can be sealed or opened, in one line each.

use std::fmt;
use std::path::PathBuf;

/// Why the master key or a sealed credential cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SealError {
    /// The file is not there.
    Missing(PathBuf),
    /// The file cannot be read or made.
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// Others than the owner may use the file; `mode` is its permission bits.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not 64 hexadecimal digits.
    Malformed(PathBuf),
    /// What a variable holds or a program prints is not 64 hexadecimal digits.
    NotAKey(String),
    /// The variable of the environment is not set.
    NotSet(String),
    /// The program gives no key.
    Program {
        /// Its name.
        program: String,
        /// What went wrong.
        problem: String,
    },
    /// The store was sealed with another master key. Ids are the beginnings of check values.
    WrongMasterKey {
        /// The id of the store's.
        stored: String,
        /// The id of the one that is given.
        given: String,
    },
    /// What hashes vault keys cannot be opened with the store's own master key.
    DigestKeyDamaged,
    /// The sealed bytes are damaged, or were sealed for another vendor, account or version.
    Damaged {
        /// Whose credential.
        vendor: String,
        /// Which of the vendor's accounts.
        account: String,
    },
    /// Sealed by a newer keybrake.
    Format(u8),
    /// The operating system gives no random bytes.
    NoRandomness,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Missing(path) => write!(
                f,
                "the store was made with a master key, and {} is not there; put it back or set \
                 data.master_key_file to where it is",
                path.display()
            ),
            SealError::Io { path, reason } => {
                write!(f, "cannot read or make the master key {}: {reason}", path.display())
            }
            SealError::Exposed { path, mode } => write!(
                f,
                "the master key {} is open to other users (mode {mode:04o}); run: chmod 600 {}",
                path.display(),
                path.display()
            ),
            SealError::Malformed(path) => write!(
                f,
                "{} is not a master key, which is 64 hexadecimal digits; put the right file back, as the \
                 store cannot be opened without it",
                path.display()
            ),
            SealError::NotAKey(place) => write!(
                f,
                "{place} gives no master key, which is 64 hexadecimal digits; give the right one, as the store cannot \
                 be opened without it"
            ),
            SealError::NotSet(variable) => {
                write!(f, "the master key's variable {variable} is not set; set it, and start again")
            }
            SealError::Program { program, problem } => {
                write!(f, "data.master_key_command: {program} gives no master key: {problem}")
            }
            SealError::WrongMasterKey { stored, given } => write!(
                f,
                "the store has the master key {stored}, and another master key, {given}, is given; give that one by \
                 data.master_key_file, _env or _command, or as old_master_key_… beside the new one"
            ),
            SealError::DigestKeyDamaged => f.write_str(
                "what hashes vault keys is damaged in the store; put the newest copy of the store back",
            ),
            SealError::Damaged { vendor, account } => write!(
                f,
                "the stored credential of {vendor}, account {account}, is damaged or not its own; set it \
                 again with `keybrake vendor set {vendor}`"
            ),
            SealError::Format(format) => {
                write!(
                    f,
                    "a credential sealed in format {format}, newer than this program; run a newer keybrake"
                )
            }
            SealError::NoRandomness => f.write_str("the operating system gives no random bytes; try again"),
        }
    }
}

impl std::error::Error for SealError {}
