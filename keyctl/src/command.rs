//! What each command does. Imports everything else in this crate.

use std::io::Write;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;
use tipsec_control::admin::{
    EventReport, EventsReport, MAX_EVENTS, MasterReport, PeersReport, RekeyIntervalReport,
    RekeyNowReport, Request, StatusReport, raw_result_from_line, result_from_line,
};
use tipsec_control::interval::{format_interval, parse_interval};
use tipsec_control::key_source;
use tipsec_control::master::MasterKey;

use crate::cli::{Cli, Command, Events, KeySource, Master, Rekey};
use crate::client::Client;
use crate::error::Error;
use crate::{key_file, prompt, show, show_evicted, show_master};

/// How often `events --follow` asks.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) fn run(cli: &Cli, out: &mut impl Write) -> Result<(), Error> {
    match &cli.command {
        Command::Master(Master::Generate { output }) => match output {
            Some(path) => {
                key_file::write_new(path, &generate()?)?;
                let path = path.display().to_string();
                say(cli, out, &json!({"file": path}), &format!("wrote {path}"))
            }
            None => print_key(cli, out),
        },
        Command::Master(Master::Set(set)) => {
            let request = Request::MasterSet {
                key: read_key(&set.source)?,
                force: set.force,
            };
            ask(cli, out, &request, |report: &MasterReport| {
                let state = if report.changed { "set" } else { "unchanged" };
                format!("master key {state}; master id {}\n", report.master_id)
            })
        }
        Command::Master(Master::Stage(stage)) => {
            let request = Request::MasterStage {
                key: read_key(&stage.source)?,
                replace: stage.replace,
            };
            ask(cli, out, &request, show_master::staged)
        }
        Command::Master(Master::Activate) => ask(
            cli,
            out,
            &Request::MasterActivate {},
            show_master::activated,
        ),
        Command::Master(Master::Retire { force }) => {
            let request = Request::MasterRetire { force: *force };
            ask(cli, out, &request, show_master::retired)
        }
        Command::Master(Master::Status) => {
            ask(cli, out, &Request::MasterStatus {}, show_master::status)
        }
        Command::Evict { node } => {
            let request = Request::Evict { node: *node };
            ask(cli, out, &request, show_evicted::evicted)
        }
        Command::Readmit { node } => {
            let request = Request::Readmit { node: *node };
            ask(cli, out, &request, show_evicted::readmitted)
        }
        Command::Rekey(Rekey::Interval { interval }) => {
            let interval_s =
                parse_interval(interval).map_err(|error| Error::Usage(error.to_string()))?;
            let request = Request::RekeyInterval { interval_s };
            ask(cli, out, &request, |report: &RekeyIntervalReport| {
                format!("rekey interval {}\n", format_interval(report.interval_s))
            })
        }
        Command::Rekey(Rekey::Now) => ask(
            cli,
            out,
            &Request::RekeyNow {},
            |report: &RekeyNowReport| format!("rekeying with {} peers\n", report.started),
        ),
        Command::Status => ask(cli, out, &Request::Status {}, |report: &StatusReport| {
            show::status(report)
        }),
        Command::Peers => ask(cli, out, &Request::Peers {}, |report: &PeersReport| {
            show::peers(report)
        }),
        Command::Events(events) if events.follow => follow(cli, out, events),
        Command::Events(events) => {
            let request = Request::Events {
                after: None,
                limit: events.limit,
            };
            ask(cli, out, &request, |report: &EventsReport| {
                report.events.iter().map(show::event).collect()
            })
        }
    }
}

/// Asks and shows the answer: as it came, or as text.
fn ask<T: DeserializeOwned>(
    cli: &Cli,
    out: &mut impl Write,
    request: &Request,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    let line = Client::connect(&cli.socket)?.ask(request)?;
    if cli.json {
        writeln!(out, "{}", raw_result_from_line(&line)?)?;
    } else {
        out.write_all(text(&result_from_line(&line)?).as_bytes())?;
    }
    Ok(())
}

/// Says what was done without the daemon.
fn say(cli: &Cli, out: &mut impl Write, json: &serde_json::Value, text: &str) -> Result<(), Error> {
    if cli.json {
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}

fn generate() -> Result<MasterKey, Error> {
    MasterKey::generate().map_err(|error| Error::Usage(error.to_string()))
}

fn print_key(cli: &Cli, out: &mut impl Write) -> Result<(), Error> {
    let text = generate()?.to_text();
    // Not through a JSON value or `format!`: they would keep copies.
    let (before, after) = if cli.json {
        ("{\"key\":\"", "\"}\n")
    } else {
        ("", "\n")
    };
    for part in [before, &text, after] {
        out.write_all(part.as_bytes())?;
    }
    Ok(())
}

fn read_key(source: &KeySource) -> Result<MasterKey, Error> {
    let dash = matches!(source.arguments.as_slice(), [dash] if dash == "-");
    if !source.arguments.is_empty() && !dash {
        return Err(Error::Usage(
            "this takes no key as an argument, because everybody can see it in `ps` and it \
             stays in the shell's history; if that was one, make a new key. Give it at the \
             prompt, or with --file, --fd, --credential or --stdin"
                .to_owned(),
        ));
    }
    let named = (&source.file, source.fd, &source.credential);
    match named {
        (None, None, None) if source.stdin || dash => key_file::read_stdin(),
        (None, None, None) => prompt::ask_twice(),
        _ if dash => Err(Error::Usage(
            "a key comes from one place: say either - or where else".to_owned(),
        )),
        (Some(path), ..) => Ok(key_source::from_file(path)?),
        (_, Some(fd), _) => key_file::read_fd(fd),
        (.., Some(name)) => Ok(key_source::from_credential(name)?),
    }
}

/// Shows events as they come, until interrupted or the daemon ends.
fn follow(cli: &Cli, out: &mut impl Write, events: &Events) -> Result<(), Error> {
    let mut client = Client::connect(&cli.socket)?;
    let mut after = None;
    loop {
        let limit = if after.is_some() {
            MAX_EVENTS
        } else {
            events.limit
        };
        let line = client.ask(&Request::Events { after, limit })?;
        let report: EventsReport = result_from_line(&line)?;
        for event in &report.events {
            show_followed(cli, out, event, after)?;
            after = Some(event.seq);
        }
        out.flush()?;
        // Nothing has happened yet: everything from now on is new.
        after = after.or(Some(0));
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn show_followed(
    cli: &Cli,
    out: &mut impl Write,
    event: &EventReport,
    after: Option<u64>,
) -> Result<(), Error> {
    if cli.json {
        let line = serde_json::to_string(event).map_err(std::io::Error::from)?;
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let missed = after.map_or(0, |after| event.seq.saturating_sub(after + 1));
    if missed > 0 {
        writeln!(
            out,
            "({missed} events were forgotten before they were read)"
        )?;
    }
    out.write_all(show::event(event).as_bytes())?;
    Ok(())
}
