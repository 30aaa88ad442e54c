//! Certificates that were swapped or refused, as the admin port, the probes, the metrics and the log tell of them. The log comes
//! last: what it says is so already wherever somebody looks then.

use std::time::SystemTime;

use super::Running;
use crate::admin::Refusal;
use crate::app::causes::with_causes;
use crate::workload::Failure;
use pillion_telemetry::ReloadOutcome;
use pillion_tls::identity::credentials::{Credentials, CredentialsError};

/// Applies certificates of files that are newer, or that now exist: of the identity, and of services.
pub(super) fn look_at_certificates(running: &mut Running) {
    let now = SystemTime::now();
    look_at_identity(running, now);
    look_at_material(running, now);
    forget_refusal(running); // the certificates in use may have been written over refused ones
}

/// Takes a refusal off the admin port when all certificates that were offered last are in use.
pub(super) fn forget_refusal(running: &Running) {
    if !running.controller.refuses_certificates() {
        running.console.forget_refused_certificates();
    }
}

fn look_at_identity(running: &mut Running, now: SystemTime) {
    match running.controller.look_at_identity(now) {
        Ok(false) => {}
        Ok(true) => note_swap(running),
        Err(why) => refuse_certificates(running, &why),
    }
}

fn look_at_material(running: &mut Running, now: SystemTime) {
    let (is_applied, refused) = running.controller.look_at_material(now);
    if is_applied || !refused.is_empty() {
        publish_identity(running);
    }
    if is_applied {
        let generation = running.controller.generation();
        tracing::info!(generation, "certificates of services swapped");
    }
    for why in &refused {
        let said = with_causes(why);
        refused_certificates(running, &said);
        tracing::error!("certificates of a service refused, the old ones stay in use: {said}");
    }
}

/// Reports that other certificates of the identity are in use.
pub(super) fn note_swap(running: &Running) {
    forget_refusal(running);
    publish_identity(running);
    let ends = running.certificate_ends();
    tracing::info!(generation = running.controller.generation(), ends, "certificates swapped");
}

/// Reports why a Workload API has issued nothing.
pub(super) fn report_failure(running: &mut Running, why: &Failure) {
    let (said, awaits) = (why.to_string(), running.controller.awaits().is_some());
    if awaits {
        running.controller.still_awaits(&said);
    }
    if why.is_bad_answer() {
        running.controller.note_answer(true);
        refused_certificates(running, &said);
    }
    publish_identity(running);
    match (awaits, why.is_bad_answer()) {
        (true, _) => tracing::warn!("still waiting for certificates: {said}"),
        (false, true) => tracing::error!("certificates refused, the old ones stay in use: {said}"),
        (false, false) => tracing::warn!("no new certificates can come, the old ones stay in use: {said}"),
    }
}

/// Reports refused certificates in the log, in the metric and on the admin port. Files that do not exist yet are waited
/// for and do not count as refused.
pub(super) fn refuse_certificates(running: &Running, why: &anyhow::Error) {
    let (awaits, said) = (running.controller.awaits().is_some(), with_causes(why));
    if !(awaits && why.downcast_ref::<CredentialsError>().is_some_and(CredentialsError::is_missing)) {
        refused_certificates(running, &said);
    }
    publish_identity(running);
    match awaits {
        true => tracing::warn!("still waiting for certificates: {said}"),
        false => tracing::error!("certificates refused, the old ones stay in use: {said}"),
    }
}

/// Reports refused certificates in the metric and on the admin port.
fn refused_certificates(running: &Running, why: &str) {
    let refusal = Refusal { at: SystemTime::now(), why: format!("certificates: {why}") };
    running.console.amend(|published| published.certificates_refused = Some(refusal));
    running.controller.around.metrics.config_reloads(ReloadOutcome::Refused).inc();
}

/// Publishes the state of the identity for probes and on the admin port.
pub(super) fn publish_identity(running: &Running) {
    match running.controller.awaits() {
        Some(why) => running.readiness.set_waiting(format!("certificates: {why}")),
        None => running.readiness.stop_waiting(),
    }
    running.readiness.set_certificate(running.controller.credentials().map(Credentials::validity));
    let credentials = running.controller.credentials().map(Credentials::to_json);
    let others = running.controller.other_certificates();
    let certificates = running.controller.certificates();
    running.console.amend(|published| {
        published.credentials = credentials.into_iter().collect();
        published.other_certificates = others;
        published.certificates = certificates;
    });
}
