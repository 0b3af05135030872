//! `make torture`: plays the parts that are asked for and prints one line for each.
#![allow(clippy::arithmetic_side_effects, reason = "test code: a panic is how it reports")]

use std::process::ExitCode;

use keybrake_tests::torture::{NotRun, Part, Size, run};

const USAGE: &str = "usage: keybrake-torture \
    [PART=kill|ack|power|disk|net|revoke|restart|clock|damage|swap|exhaust|cost] [SEED=n] [ROUNDS=n]";

/// Something is not as it should be, or was not run.
const EXIT_VIOLATED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Violations of a part that are printed.
const VIOLATIONS_SHOWN: usize = 20;

struct Arguments {
    parts: Vec<Part>,
    seed: u64,
    size: Size,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("keybrake-torture: {problem}; {USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let failed = arguments.parts.iter().filter(|part| !play(**part, &arguments)).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VIOLATED) }
}

/// Whether the part was run and nothing was violated.
fn play(part: Part, arguments: &Arguments) -> bool {
    match run(part, arguments.size, arguments.seed) {
        Err(NotRun(why)) => {
            println!("{:<7} not run: {why}", part.name());
            false
        }
        Ok(report) => {
            println!("{report}");
            for note in &report.notes {
                println!("  {}", note.trim_end());
            }
            for violation in report.violations.iter().take(VIOLATIONS_SHOWN) {
                println!("  violation: {violation}");
            }
            if let Some(more) = report.violations.len().checked_sub(VIOLATIONS_SHOWN).filter(|more| *more > 0)
            {
                println!("  and {more} more; judgement.jsonl in the kept directories has them");
            }
            for dir in &report.kept {
                println!("  kept: {}", dir.display());
            }
            report.violations.is_empty()
        }
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { parts: Part::ALL.into(), seed: fresh_seed(), size: Size::Full };
    for word in words {
        let number = |text: &str| text.parse().map_err(|_| format!("'{text}' in {word} is no number"));
        match word.split_once('=') {
            // A variable of `make` that is not set.
            Some((_, "")) => {}
            Some(("PART", part)) => arguments.parts = vec![part.parse()?],
            Some(("SEED", seed)) => arguments.seed = number(seed)?,
            Some(("ROUNDS", rounds)) => {
                let rounds = usize::try_from(number(rounds)?).map_err(|error| error.to_string())?;
                arguments.size = Size::Rounds(rounds);
            }
            _ => return Err(format!("'{word}' is no setting")),
        }
    }
    Ok(arguments)
}

fn fresh_seed() -> u64 {
    keybrake_tests::now_micros() % 1_000_000_007
}
