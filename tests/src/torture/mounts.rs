//! Disks in files: an image on a loop device, mounted in a mount namespace that only this thread and what it starts
//! can see. When the last of them has ended the kernel unmounts it and frees the loop device, whatever ended them.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::NotRun;
use crate::wait::eventually;

/// How often a copy is taken again because the kernel wrote meanwhile.
const COPIES_MAX: usize = 20;

/// Gives this thread namespaces of its own, such as `CLONE_NEWNS`.
///
/// # Errors
/// Where the machine does not allow it.
pub(crate) fn leave(namespaces: i32) -> Result<(), NotRun> {
    // SAFETY: takes no pointers.
    if unsafe { libc::geteuid() } != 0 {
        return Err(NotRun("mounts and namespaces need root".to_owned()));
    }
    // SAFETY: takes no pointers; the thread shares its file system attributes with nobody who minds.
    if unsafe { libc::unshare(namespaces | libc::CLONE_NEWNS) } != 0 {
        return Err(NotRun(format!("no namespaces: {}", std::io::Error::last_os_error())));
    }
    // Nothing that is mounted here is to be seen outside.
    run(Command::new("mount").args(["--make-rprivate", "/"]))
}

/// Runs a program of the system.
///
/// # Errors
/// When it is missing or fails: the machine does not allow what it does.
pub(crate) fn run(command: &mut Command) -> Result<(), NotRun> {
    // Debian has them where not every user looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| {
        NotRun(format!("{name}: {error}; scripts/setup.sh torture installs what is missing"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NotRun(format!("{name}: {}", said.lines().next().unwrap_or("failed"))))
}

/// A mounted image.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes an image of so many bytes in `dir` and mounts it there as `disk`.
    ///
    /// # Errors
    /// Where the machine does not allow it.
    pub(crate) fn create(dir: &Path, bytes: u64) -> Result<Disk, NotRun> {
        let image = dir.join("disk.1.image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mkfs = ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0"];
        run(Command::new("mkfs.ext4").args(mkfs).arg(&image))?;
        let at = dir.join("disk");
        std::fs::create_dir(&at).unwrap();
        mount(&image, &at)?;
        Ok(Disk { image, at })
    }

    /// Where it is mounted.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Its loop device, such as `loop0`.
    pub(crate) fn device(&self) -> String {
        // The thread's own view: `/proc/self` would be that of the process.
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let at = self.at.display().to_string();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&at));
        let device = line.and_then(|line| line.split(' ').next()?.strip_prefix("/dev/"));
        device.unwrap_or_else(|| panic!("{at} is not mounted")).to_owned()
    }

    /// What the disk holds at this moment, as a power cut would leave it: a copy of the image, without what is
    /// still in the memory of the kernel. Nothing may be writing; a copy during which the kernel itself wrote is
    /// taken again.
    pub(crate) fn copy(&self) -> PathBuf {
        let number = self.image.to_string_lossy().split('.').rev().nth(1).unwrap().parse::<u64>().unwrap();
        let copy = self.image.with_file_name(format!("disk.{}.image", number + 1));
        for _ in 0..COPIES_MAX {
            let before = self.writes();
            std::fs::copy(&self.image, &copy).unwrap();
            if self.writes() == before {
                return copy;
            }
        }
        panic!("{} is written all the time", self.image.display());
    }

    /// Writes that reached the device so far.
    fn writes(&self) -> String {
        let stat = std::fs::read_to_string(format!("/sys/block/{}/stat", self.device())).unwrap();
        // The fifth number counts writes, the seventh their sectors.
        stat.split_whitespace().skip(4).take(3).collect::<Vec<&str>>().join(" ")
    }

    /// Throws the mounted image away and mounts `image` in its place. Nothing may have a file open.
    pub(crate) fn replace(&mut self, image: PathBuf) {
        unmount(&self.at);
        std::fs::remove_file(&self.image).unwrap();
        self.image = image;
        mount(&self.image, &self.at).unwrap_or_else(|error| panic!("{}", error.0));
    }

    /// Mounts the same image again: what a machine does after its file system failed.
    pub(crate) fn again(&mut self) {
        unmount(&self.at);
        mount(&self.image, &self.at).unwrap_or_else(|error| panic!("{}", error.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.at);
    }
}

/// `mount -o loop` frees the loop device by itself once it is unmounted. The kernel is asked not to bring anything
/// to the disk on its own, so that what is there was synced.
fn mount(image: &Path, at: &Path) -> Result<(), NotRun> {
    run(Command::new("mount").args(["-o", "loop,commit=600,errors=remount-ro"]).arg(image).arg(at))
}

fn unmount(at: &Path) {
    let path = CString::new(at.as_os_str().as_bytes()).unwrap();
    eventually(&format!("{} to be unmounted", at.display()), || {
        // SAFETY: the pointer is to a string that ends with NUL.
        (unsafe { libc::umount2(path.as_ptr(), 0) } == 0).then_some(())
    });
}

fn detach(at: &Path) {
    let path = CString::new(at.as_os_str().as_bytes()).unwrap();
    // SAFETY: the pointer is to a string that ends with NUL. Not mounted any more is as good.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}
