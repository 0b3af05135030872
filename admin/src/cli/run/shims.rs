//! The start-up shims: files that Python and Node load before the program, because no variable moves
//! every SDK.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

const PYTHON: &str = include_str!("sitecustomize.py");
const NODE: &str = include_str!("keybrake.cjs");

/// Python imports a module of this name at its start.
const PYTHON_NAME: &str = "sitecustomize.py";

const NODE_NAME: &str = "keybrake.cjs";

/// A directory with both files. They hold no secret; who could write them could run code in the program.
#[derive(Debug)]
pub(super) struct Shims {
    dir: PathBuf,
    /// Removes the directory at its end.
    _temporary: Option<TempDir>,
}

impl Shims {
    /// In a directory of this user alone, which goes when this is dropped.
    pub(super) fn temporary() -> Result<Shims, Failure> {
        let failed = |error| Failure::setup(format_args!("cannot write the start-up shims: {error}"));
        let private = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("keybrake-run-").permissions(private).tempdir();
        let dir = dir.map_err(failed)?;
        write(dir.path()).map_err(failed)?;
        // Absolute: the program may start others elsewhere.
        let path = dir.path().canonicalize().map_err(failed)?;
        Ok(Shims { dir: path, _temporary: Some(dir) })
    }

    /// In a directory that stays.
    pub(super) fn in_directory(dir: &Path) -> Result<Shims, Failure> {
        let written = DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| write(dir));
        let path = written.and_then(|()| dir.canonicalize());
        let failed = |error| {
            Failure::setup(format_args!("cannot write the start-up shims to {}: {error}", dir.display()))
        };
        Ok(Shims { dir: path.map_err(failed)?, _temporary: None })
    }

    /// For `PYTHONPATH`.
    pub(super) fn python_dir(&self) -> &Path {
        &self.dir
    }

    /// For `--require`.
    pub(super) fn node_file(&self) -> PathBuf {
        self.dir.join(NODE_NAME)
    }
}

fn write(dir: &Path) -> io::Result<()> {
    for (name, text) in [(PYTHON_NAME, PYTHON), (NODE_NAME, NODE)] {
        let mut file: File =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(name))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_shims_are_this_users_alone_and_go() {
        let shims = Shims::temporary().unwrap();
        let dir = shims.python_dir().to_owned();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(shims.node_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(shims);
        assert!(!dir.exists());
    }

    #[test]
    fn shims_in_a_directory_are_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b");
        Shims::in_directory(&place).unwrap();
        let shims = Shims::in_directory(&place).unwrap();
        assert!(shims.node_file().is_file() && shims.python_dir().join(PYTHON_NAME).is_file());
    }
}
