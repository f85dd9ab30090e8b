//! Signatures of DNS messages with a shared key (TSIG, RFC 8945). hickory-proto encodes the messages; the MAC
//! is computed here, because hickory-proto has TSIG only together with the validation of DNSSEC.

use aws_lc_rs::hmac;
use hickory_proto::{
    op::{Header, Message, Query},
    rr::{
        DNSClass, Name, RData, Record,
        rdata::{
            TSIG,
            tsig::{TsigAlgorithm as AlgorithmName, TsigError, message_tbs},
        },
    },
    serialize::binary::{BinDecodable, BinDecoder, BinEncoder},
};
use project_rules::connection::dns::TsigAlgorithm;

/// Largest difference between the clocks of client and server, in seconds: the recommended value.
const FUDGE: u16 = 300;

/// Byte offset of the number of additional records in a message.
const ADDITIONALS_OFFSET: usize = 10;

/// A TSIG key.
pub(super) struct TsigKey {
    name: Name,
    algorithm: AlgorithmName,
    key: hmac::Key,
}

/// Failure to verify a response.
#[derive(Debug, thiserror::Error)]
pub(super) enum TsigFailure {
    #[error("the response cannot be decoded: {0}")]
    Malformed(String),
    #[error("the server does not know the TSIG key; correct key_name")]
    BadKey,
    #[error("the server refused the TSIG signature; correct the secret or the algorithm")]
    BadSignature,
    #[error(
        "the clocks of the DNS server and of the project service differ by more than 5 minutes"
    )]
    BadTime,
    #[error("the response has no TSIG signature")]
    Unsigned(Box<Message>),
    #[error("the TSIG signature of the response is wrong")]
    WrongSignature,
}

fn malformed(error: impl std::fmt::Display) -> TsigFailure {
    TsigFailure::Malformed(error.to_string())
}

impl TsigKey {
    pub(super) fn new(name: Name, algorithm: TsigAlgorithm, secret: &[u8]) -> Self {
        let (algorithm, digest) = match algorithm {
            TsigAlgorithm::HmacSha256 => (AlgorithmName::HmacSha256, hmac::HMAC_SHA256),
            TsigAlgorithm::HmacSha384 => (AlgorithmName::HmacSha384, hmac::HMAC_SHA384),
            TsigAlgorithm::HmacSha512 => (AlgorithmName::HmacSha512, hmac::HMAC_SHA512),
        };
        Self { name, algorithm, key: hmac::Key::new(digest, secret) }
    }

    /// Signs a request. Returns its MAC, with which the response is verified. `now`: seconds since 1970.
    pub(super) fn sign(&self, message: &mut Message, now: u64) -> anyhow::Result<Vec<u8>> {
        let id = message.metadata.id;
        let unsigned = TSIG::new(self.algorithm.clone(), now, FUDGE, vec![], id, None, vec![]);
        let to_be_signed = message_tbs(message, &unsigned, &self.name)?;
        let mac = hmac::sign(&self.key, &to_be_signed).as_ref().to_vec();
        let mut record = Record::from_rdata(self.name.clone(), 0, unsigned.set_mac(mac.clone()));
        record.dns_class = DNSClass::ANY;
        message.signature = Some(Box::new(record));
        Ok(mac)
    }

    /// Decodes a response and verifies its signature.
    pub(super) fn verify(
        &self,
        response: &[u8],
        request_mac: &[u8],
        now: u64,
    ) -> Result<Message, TsigFailure> {
        let message = Message::from_vec(response).map_err(malformed)?;
        // Without the validation of DNSSEC, hickory-proto leaves the signature among the records.
        let last = message.additionals.last();
        let signature = last.and_then(|it| match &it.data {
            RData::TSIG(tsig) => Some((&it.name, tsig)),
            _ => None,
        });
        let Some((key_name, tsig)) = signature else {
            return Err(TsigFailure::Unsigned(Box::new(message)));
        };
        match tsig.error {
            None => {}
            Some(TsigError::BadKey) => return Err(TsigFailure::BadKey),
            Some(TsigError::BadTime) => return Err(TsigFailure::BadTime),
            Some(_) => return Err(TsigFailure::BadSignature),
        }
        let to_be_signed = self.signed_part(response, request_mac, tsig).map_err(malformed)?;
        let is_same_key = *key_name == self.name && tsig.algorithm == self.algorithm;
        if !is_same_key || hmac::verify(&self.key, &to_be_signed, &tsig.mac).is_err() {
            return Err(TsigFailure::WrongSignature);
        }
        if now.abs_diff(tsig.time) > u64::from(tsig.fudge) {
            return Err(TsigFailure::BadTime);
        }
        Ok(message)
    }

    /// The signed bytes of a response (RFC 8945, section 4.3): the MAC of the request, the message without
    /// its TSIG record, and the fields of that record.
    fn signed_part(
        &self,
        response: &[u8],
        request_mac: &[u8],
        tsig: &TSIG,
    ) -> anyhow::Result<Vec<u8>> {
        let mut decoder = BinDecoder::new(response);
        let Header { metadata, counts } = Header::read(&mut decoder)?;
        for _ in 0..counts.queries {
            Query::read(&mut decoder)?;
        }
        let records = usize::from(counts.answers) + usize::from(counts.authorities);
        Message::read_records(&mut decoder, records, false, metadata.op_code)?;
        let additionals = counts.additionals.saturating_sub(1);
        Message::read_records(&mut decoder, additionals.into(), true, metadata.op_code)?;
        let mut message = response[..response.len() - decoder.len()].to_vec();
        message[..2].copy_from_slice(&tsig.oid.to_be_bytes());
        message[ADDITIONALS_OFFSET..ADDITIONALS_OFFSET + 2]
            .copy_from_slice(&additionals.to_be_bytes());

        let mut signed = u16::try_from(request_mac.len())?.to_be_bytes().to_vec();
        signed.extend_from_slice(request_mac);
        signed.extend_from_slice(&message);
        let mut fields = vec![];
        tsig.emit_tsig_for_mac(&mut BinEncoder::new(&mut fields), &self.name)?;
        signed.extend_from_slice(&fields);
        Ok(signed)
    }
}
