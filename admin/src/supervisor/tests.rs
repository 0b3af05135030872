//! The supervisor over shell scripts in place of the two processes.

use std::fs;

use super::*;

/// A child that runs `script` in `dir`.
fn script(dir: &Path, script: &'static str) -> Program {
    let dir = dir.to_owned();
    let command = move || {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).current_dir(&dir);
        command
    };
    let restart = Restart::OneBehindTheOther;
    Program {
        name: "script",
        command: Box::new(command),
        stop_within: Box::new(|| Duration::from_secs(30)),
        restart,
        reloads: never(),
    }
}

/// Nobody asks for a restart.
fn never() -> Restarts {
    watch::channel(0).1
}

async fn keep(program: Program, orders: watch::Receiver<Order>) -> Result<(), Hopeless> {
    super::keep(program, orders, never(), watch::channel(0).0).await
}

/// Waits until `path` is there and whole: scripts write one line.
async fn appears(path: PathBuf) -> String {
    let whole = async {
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text,
                Ok(_) | Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), whole).await.unwrap_or_else(|_| panic!("no {}", path.display()))
}

/// Runs until it is told to end.
const OBEDIENT: &str = "trap 'exit 0' TERM; echo $$ > started; \
                        while :; do sleep 0.05; done";

#[tokio::test]
async fn the_dataplane_is_stopped_before_the_admin_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let dataplane = "trap 'echo dataplane >> order; exit 0' TERM; echo > d; while :; do sleep 0.05; done";
    let admin = "trap 'echo admin >> order; exit 0' TERM; echo > a; while :; do sleep 0.05; done";
    let (orders, ordered) = watch::channel(Order::Run);
    let running = tokio::spawn(supervise([script(&path, dataplane), script(&path, admin)], ordered, never()));
    appears(path.join("d")).await;
    appears(path.join("a")).await;
    orders.send_replace(Order::Stop);
    assert_eq!(running.await.unwrap(), Ok(ExitCode::SUCCESS));
    assert_eq!(fs::read_to_string(path.join("order")).unwrap(), "dataplane\nadmin\n");
}

#[tokio::test]
async fn status_2_at_the_first_start_stops_both() {
    let dir = tempfile::tempdir().unwrap();
    let (_orders, ordered) = watch::channel(Order::Run);
    let programs = [script(dir.path(), "exit 2"), script(dir.path(), OBEDIENT)];
    assert_eq!(supervise(programs, ordered, never()).await, Ok(ExitCode::from(2)));
}

#[tokio::test]
async fn a_dead_child_is_started_again_also_after_status_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let dies_twice = "echo x >> runs; case $(wc -l < runs) in 1) kill -9 $$;; 2) exit 2;; esac; \
                      echo up > up; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let (orders, ordered) = watch::channel(Order::Run);
    let keeper = tokio::spawn(keep(script(&path, dies_twice), ordered));
    appears(path.join("up")).await;
    assert_eq!(fs::read_to_string(path.join("runs")).unwrap(), "x\nx\nx\n");
    orders.send_replace(Order::Stop);
    assert_eq!(keeper.await.unwrap(), Ok(()));
}

/// Writes its process id, and ends when another one says that it has taken over.
const GIVES_UP_ITS_PLACE: &str = "echo $$ > \"start$0\"; trap 'exit 0' TERM; case $0 in --take-over) echo > over;; *) \
                                  while [ ! -e over ]; do sleep 0.02; done; exit 0;; esac; \
                                  while :; do sleep 0.05; done";

/// It ends by itself when it is told to take over.
const CANNOT_TAKE_OVER: &str = "echo $$ > \"start$0\"; trap 'exit 0' TERM; case $0 in --take-over) exit 2;; esac; \
                                while :; do sleep 0.05; done";

#[tokio::test]
async fn q23_the_next_dataplane_takes_over_and_the_admin_process_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let restart = Restart::TakeOver("--take-over");
    let dataplane = Program { restart, ..script(&path, GIVES_UP_ITS_PLACE) };
    let admin = script(
        &path,
        "echo $$ >> admins; trap 'exit 0' TERM; [ $(wc -l < admins) = 1 ] || echo > second; \
                               while :; do sleep 0.05; done",
    );
    let (orders, ordered) = watch::channel(Order::Run);
    let (asked, restarts) = watch::channel(0);
    let running = tokio::spawn(supervise([dataplane, admin], ordered, restarts));
    let first = appears(path.join("startsh")).await;
    appears(path.join("admins")).await;
    asked.send_replace(1);
    let next = appears(path.join("start--take-over")).await;
    appears(path.join("second")).await;
    assert_ne!(first, next);
    assert!(!Path::new("/proc").join(first.trim()).exists() && Path::new("/proc").join(next.trim()).exists());
    orders.send_replace(Order::Stop);
    assert_eq!(running.await.unwrap(), Ok(ExitCode::SUCCESS));
    assert!(!Path::new("/proc").join(next.trim()).exists());
}

#[tokio::test]
async fn q23_a_dataplane_that_cannot_take_over_leaves_the_old_one_and_the_admin_process_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let program = Program { restart: Restart::TakeOver("--take-over"), ..script(&path, CANNOT_TAKE_OVER) };
    let (orders, ordered) = watch::channel(Order::Run);
    let (asked, restarts) = watch::channel(0);
    let (restarted, told) = watch::channel(0);
    let keeper = tokio::spawn(super::keep(program, ordered, restarts, restarted));
    let first = appears(path.join("startsh")).await;
    asked.send_replace(1);
    let next = appears(path.join("start--take-over")).await;
    let gone = async {
        while Path::new("/proc").join(next.trim()).exists() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.unwrap();
    assert!(Path::new("/proc").join(first.trim()).exists(), "it goes on");
    assert_eq!(*told.borrow(), 0);
    orders.send_replace(Order::Stop);
    assert_eq!(keeper.await.unwrap(), Ok(()));
    assert!(!Path::new("/proc").join(first.trim()).exists());
}

#[tokio::test]
async fn a_child_that_does_not_end_is_killed_when_its_time_is_over_or_at_once_if_asked() {
    for (stop_within, last) in
        [(Duration::from_millis(50), Order::Stop), (Duration::from_secs(600), Order::Kill)]
    {
        let dir = tempfile::tempdir().unwrap();
        let stubborn = "trap '' TERM; echo $$ > started; while :; do sleep 0.05; done";
        let program = Program { stop_within: Box::new(move || stop_within), ..script(dir.path(), stubborn) };
        let (orders, ordered) = watch::channel(Order::Run);
        let keeper = tokio::spawn(keep(program, ordered));
        let pid = appears(dir.path().join("started")).await;
        orders.send_replace(Order::Stop);
        orders.send_replace(last);
        assert_eq!(keeper.await.unwrap(), Ok(()));
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}

#[tokio::test]
async fn a_child_has_a_process_group_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (orders, ordered) = watch::channel(Order::Run);
    let keeper = tokio::spawn(keep(script(dir.path(), OBEDIENT), ordered));
    let pid = appears(dir.path().join("started")).await;
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap();
    // proc(5): the fifth field of stat is the process group.
    assert_eq!(stat.split(' ').nth(4), Some(pid.trim()));
    orders.send_replace(Order::Stop);
    assert_eq!(keeper.await.unwrap(), Ok(()));
}

fn config() -> Config {
    let text =
        "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\ncredential_env = \"STRIPE\"";
    Config::parse(text, std::iter::empty()).unwrap()
}

#[tokio::test]
async fn q30_a_wish_to_read_the_configuration_again_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let listens =
        "trap 'echo heard > heard' HUP; trap 'exit 0' TERM; echo $$ > started; while :; do sleep 0.05; done";
    let (wish, reloads) = watch::channel(0);
    let program = Program { reloads, ..script(dir.path(), listens) };
    let (orders, ordered) = watch::channel(Order::Run);
    let keeper = tokio::spawn(keep(program, ordered));
    let pid = appears(dir.path().join("started")).await;
    wish.send_replace(1);
    appears(dir.path().join("heard")).await;
    assert_eq!(appears(dir.path().join("started")).await, pid, "the same one");
    orders.send_replace(Order::Stop);
    assert_eq!(keeper.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_missing_executable_says_where_it_was_looked_for() {
    let own = Path::new("/nowhere/keybrake");
    let mut program = dataplane(own, Path::new("keybrake.toml"), &config(), never());
    program.command = Box::new(|| Command::new("/nowhere/keybrake-dataplane"));
    let (_orders, ordered) = watch::channel(Order::Run);
    let Err(Hopeless::NotFound(problem)) = keep(program, ordered).await else { panic!("it was found") };
    assert!(problem.contains("in PATH"), "{problem}");
}

#[test]
fn p6_q27_only_the_dataplane_gets_credentials_and_only_the_admin_process_the_token() {
    let removed = |program: &Program| -> Vec<String> {
        let command = (program.command)();
        let changes = command.as_std().get_envs().filter(|(_, value)| value.is_none());
        changes.map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    };
    let (own, path) = (Path::new("/nowhere/keybrake"), Path::new("keybrake.toml"));
    assert_eq!(removed(&dataplane(own, path, &config(), never())), [TOKEN_ENV]);
    assert_eq!(removed(&admin(own.to_owned(), path, &config(), never())), ["STRIPE"]);
}
