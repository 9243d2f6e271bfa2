//! Targets `admin_request` and `admin_response`: lines of the operator's
//! protocol, at the daemon and at its tool. Imports nothing of the crate.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use tipsec_control::admin::{
    EventsReport, Failure, MAX_REQUEST_LEN, MAX_RESPONSE_LEN, MasterReport, MasterStatusReport,
    MasterStepReport, PeersReport, RekeyIntervalReport, RekeyNowReport, Reply, Request, Response,
    ResponseError, StatusReport, raw_result_from_line, response_to_line, result_from_line,
};
use tipsec_control::interval::{MAX_INTERVAL_S, MIN_INTERVAL_S};
use tipsec_control::master::MasterKey;

use crate::Target;

pub(crate) const REQUEST: Target = Target {
    name: "admin_request",
    run: run_request,
    seeds: request_seeds,
};

pub(crate) const RESPONSE: Target = Target {
    name: "admin_response",
    run: run_response,
    seeds: response_seeds,
};

/// Digits in a row that may be a key.
const DIGITS_OF_A_KEY: usize = 16;

fn run_request(line: &[u8]) {
    match Request::from_line(line) {
        Ok(request) => {
            assert!(line.len() <= MAX_REQUEST_LEN);
            if let Request::RekeyInterval { interval_s } = &request {
                let range = MIN_INTERVAL_S..=MAX_INTERVAL_S;
                assert!(interval_s.is_none_or(|s| range.contains(&s)));
                let text = String::from_utf8_lossy(line);
                assert!(text.contains("interval_s") || text.contains('\\'), "off?");
            }
            // What it says is said again, the same, in one line.
            let written = request.to_line().unwrap();
            assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), 1);
            let again = Request::from_line(&written).unwrap_or_else(|_| panic!("not its own"));
            assert_eq!(again.to_line().unwrap(), written);
        }
        Err(failure) => {
            check_failure(&failure);
            let may_hold_key = line.windows(5).any(|w| w == b"\"key\"" || w == b"maste");
            let digits = failure.message.as_bytes().windows(DIGITS_OF_A_KEY);
            let mut leaks = digits
                .filter(|w| w.iter().all(u8::is_ascii_hexdigit))
                .filter(|&w| line.windows(w.len()).any(|l| l == w));
            assert!(
                !may_hold_key || leaks.next().is_none(),
                "{}",
                failure.message
            );
        }
    }
}

fn check_failure(failure: &Failure) {
    assert!(!failure.message.is_empty());
    // A line for a terminal, and far shorter than what was asked for.
    assert!(failure.message.len() <= 1200, "{}", failure.message.len());
    let answer: Response = Err(failure.clone());
    let line = response_to_line(&answer);
    assert!(line.len() <= MAX_RESPONSE_LEN);
    match raw_result_from_line(&line) {
        Err(ResponseError::Refused(read)) => assert_eq!(read, *failure),
        _ => panic!("the refusal is not read as one"),
    }
}

fn run_response(line: &[u8]) {
    let Ok(raw) = raw_result_from_line(line) else {
        return;
    };
    let mut places = line.windows(raw.len());
    assert!(places.any(|place| place == raw.as_bytes()));
    check_report::<StatusReport>(line, |report| Reply::Status(Box::new(report)));
    check_report::<PeersReport>(line, Reply::Peers);
    check_report::<EventsReport>(line, Reply::Events);
    check_report::<MasterReport>(line, Reply::MasterSet);
    check_report::<MasterStepReport>(line, Reply::MasterStep);
    check_report::<MasterStatusReport>(line, Reply::MasterStatus);
    check_report::<RekeyIntervalReport>(line, Reply::RekeyInterval);
    check_report::<RekeyNowReport>(line, Reply::RekeyNow);
}

/// A report that is read is written and read again as the same.
fn check_report<T>(line: &[u8], reply: impl Fn(T) -> Reply)
where
    T: DeserializeOwned + Serialize + PartialEq + Debug + Clone,
{
    let Ok(report) = result_from_line::<T>(line) else {
        return;
    };
    let written = response_to_line(&Ok(reply(report.clone())));
    let again = result_from_line::<T>(&written).expect("its own line");
    assert_eq!(again, report);
}

fn request_seeds() -> Vec<Vec<u8>> {
    let key = || MasterKey::from_octets(&[0xa5; 32]).unwrap();
    let requests = [
        Request::Status {},
        Request::Peers {},
        Request::Events {
            after: Some(7),
            limit: 10,
        },
        Request::MasterSet {
            key: key(),
            force: true,
        },
        Request::MasterStage {
            key: key(),
            replace: false,
        },
        Request::MasterActivate {},
        Request::MasterRetire { force: false },
        Request::MasterStatus {},
        Request::RekeyInterval {
            interval_s: Some(600),
        },
        Request::RekeyInterval { interval_s: None },
        Request::RekeyNow {},
    ];
    let lines = requests.iter().map(|r| r.to_line().unwrap().to_vec());
    let mut seeds: Vec<Vec<u8>> = lines.collect();
    seeds.extend([
        b"{\"op\":\"rekey-interval\"}\n".to_vec(),
        b"{\"op\":\"rekey-interval\",\"interval_s\":0}".to_vec(),
        b"{\"op\":\"master-set\",\"key\":12345678901234567890}".to_vec(),
        b"{\"op\":\"status\",\"0123456789abcdef0123456789abcdef\":1}".to_vec(),
        b"[1,2".to_vec(),
    ]);
    seeds
}

fn response_seeds() -> Vec<Vec<u8>> {
    let mut status = StatusReport {
        cluster: "core-7".to_owned(),
        node: 1001,
        incarnation: "00112233445566ff".to_owned(),
        rekey_interval_s: Some(600),
        ..StatusReport::default()
    };
    status.xdp.insert("data".to_owned(), 7);
    status.bearers.push(Default::default());
    status.workers.push(Default::default());
    status.tap = Some(Default::default());
    let mut seeds = vec![
        response_to_line(&Ok(Reply::Status(Box::new(status)))),
        response_to_line(&Err(Failure::too_large())),
    ];
    let results = [
        r#"{"rekey_interval_s":600}"#,
        r#"{"peers":1}"#,
        r#"{"peers":[]}"#,
        r#"{"events":[],"next":3}"#,
        r#"{"master_id":"00112233445566ff"}"#,
    ];
    seeds.extend(
        results.map(|result| format!("{{\"ok\":true,\"result\":{result}}}\n").into_bytes()),
    );
    seeds
}
