//! What a rank needs to find rank 0 and prove that it belongs to its machine. It goes by MPI or in an address file, as JSON.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vincs_transport_tcp::secret::{MachineId, Secret};

use crate::host::Place;

/// Version of the card's form.
pub(crate) const FORMAT: u32 = 1;

/// Longest card in bytes, a little less than what vincs-mpi takes.
pub(crate) const MAX_CARD: usize = 15 * 1024;

/// Most addresses of rank 0 on a card: a host has few networks.
const MAX_ADDRESSES: usize = 64;

/// Rank 0's card.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub(crate) machine: MachineId,
    pub(crate) secret: Secret,
    /// Rank 0's host.
    pub(crate) host: String,
    /// What tells that host's boot from all others: its loopback addresses mean nothing elsewhere.
    pub(crate) boot_id: String,
    /// Rank 0's process there.
    pub(crate) pid: u32,
    /// When rank 0 started, in seconds since 1970.
    pub(crate) started: u64,
    /// Where rank 0 listens, best first.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Why text is no card.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CardError {
    #[error("it is not what a rank 0 writes")]
    Malformed,
    #[error("its format {0} is another vincs's, this one has {FORMAT}: use the same vincs for all ranks")]
    Format(u64),
}

#[derive(Deserialize, Serialize)]
struct Written {
    format: u32,
    machine: String,
    secret: String,
    host: String,
    boot_id: String,
    pid: u32,
    started: u64,
    addresses: Vec<SocketAddr>,
}

impl Card {
    /// The card of a rank 0 that starts now.
    pub(crate) fn new(machine: MachineId, secret: Secret, place: &Place, mut addresses: Vec<SocketAddr>) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        addresses.truncate(MAX_ADDRESSES);
        let (host, boot_id) = (place.host.clone(), place.boot_id.clone());
        Self { machine, secret, host, boot_id, pid: std::process::id(), started, addresses }
    }

    /// The card as text. It holds the secret.
    pub(crate) fn to_json(&self) -> String {
        let written = Written {
            format: FORMAT,
            machine: self.machine.to_string(),
            secret: self.secret.to_hex(),
            host: self.host.clone(),
            boot_id: self.boot_id.clone(),
            pid: self.pid,
            started: self.started,
            addresses: self.addresses.clone(),
        };
        // Numbers, strings and addresses always have a form in JSON.
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// The card from its text.
    ///
    /// # Errors
    /// [`CardError`]; it does not repeat the text, which may hold a secret.
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, CardError> {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|_| CardError::Malformed)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).ok_or(CardError::Malformed)?;
        if format != u64::from(FORMAT) {
            return Err(CardError::Format(format));
        }
        let written: Written = serde_json::from_value(value).map_err(|_| CardError::Malformed)?;
        let machine = MachineId::from_hex(&written.machine).map_err(|_| CardError::Malformed)?;
        let secret = Secret::from_hex(&written.secret).map_err(|_| CardError::Malformed)?;
        if written.addresses.is_empty() || written.addresses.len() > MAX_ADDRESSES {
            return Err(CardError::Malformed);
        }
        let Written { host, boot_id, pid, started, addresses, .. } = written;
        Ok(Self { machine, secret, host, boot_id, pid, started, addresses })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A card whose rank 0 listens at these addresses.
    pub(crate) fn card(addresses: &[&str]) -> Card {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let place = Place { host: "node1".into(), boot_id: "00000000-0000-0000-0000-000000000000".into() };
        Card::new(MachineId::random().unwrap(), Secret::random().unwrap(), &place, addresses)
    }

    #[test]
    fn a_card_survives_its_text() {
        let card = card(&["10.0.0.1:4000", "[fd00::1]:4000"]);
        let read = Card::from_json(card.to_json().as_bytes()).unwrap();
        assert_eq!((read.machine, read.pid, read.started), (card.machine, card.pid, card.started));
        assert_eq!((read.host, read.addresses), (card.host, card.addresses));
        assert_eq!(read.secret.to_hex(), card.secret.to_hex());
    }

    #[test]
    fn the_most_addresses_still_fit() {
        let addresses = vec!["[fd00:1111:2222:3333:4444:5555:6666:7777]:40000"; MAX_ADDRESSES + 1];
        let card = card(&addresses);
        assert_eq!(card.addresses.len(), MAX_ADDRESSES);
        let card = Card { host: "h".repeat(255), ..card };
        assert!(card.to_json().len() <= MAX_CARD && Card::from_json(card.to_json().as_bytes()).is_ok());
    }

    #[test]
    fn another_format_is_told_from_garbage() {
        let text = card(&["10.0.0.1:4000"]).to_json();
        let other = text.replace("\"format\":1", "\"format\":2");
        assert_eq!(Card::from_json(other.as_bytes()).unwrap_err(), CardError::Format(2));
        let no_address = text.replace("\"10.0.0.1:4000\"", "");
        for garbage in
            ["", "{}", "x", &text[1..], "{\"format\":1}", &no_address, &text.replace("\"secret\":\"", "\"secret\":\"0")]
        {
            assert_eq!(Card::from_json(garbage.as_bytes()).unwrap_err(), CardError::Malformed, "{garbage}");
        }
    }
}
