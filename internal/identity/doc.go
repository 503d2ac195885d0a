// Package identity answers one question for the rest of the program: who is on
// the other side? It holds this machine's long-term key and the list of known
// peers, turns a short code into a mutual pin of two keys (pairing), lets two
// known peers find and recognise each other again (meeting), and makes the TLS
// configurations that accept exactly one peer.
//
// It sends nothing and starts nothing: every protocol here is a state machine
// that takes and returns byte messages, and the caller carries them over a
// signaling server that is trusted with nothing. That server can drop, delay
// and read the clear parts named below. It cannot read a name, a candidate or
// a secret, and whatever it changes or injects ends in an error.
//
// Begin reading at pairing.go, then meeting.go. cpace.go is hand-written glue
// around X25519: small, held to the draft's vectors, not audited by others.
//
// # Words
//
// The listener runs "listen": it made the pairing code and waits. The connector
// runs "connect": it typed the code. A fingerprint is the SHA-256 of a key's
// SubjectPublicKeyInfo. lv(a, b, ...) is each string with its length in front.
//
// # Pairing: p2pagent-pair/2
//
// The code is NUMBER-word-word-word. The number is the nameplate, which finds
// the mailbox at the server; the three words (30 bits) are the password and
// never leave the two machines. Pairing is CPACE-X25519-SHA512 of
// draft-irtf-cfrg-cpace-21 in the initiator-responder setting, the listener
// being the draft's A, followed by explicit key confirmation:
//
//	PRS = "word-word-word"             CI  = lv("p2pagent-pair/2", mailbox)
//	sid = nonceC || nonceL             AD  = lv(role, version, fingerprint)
//
// A message is one type byte and then fields, each with one length byte in
// front (0 to 127). Nothing may follow the last field. No message is longer
// than [MaxPairingMessage].
//
//	#  from       type       fields
//	1  connector  0x01 hello   version, nonceC[16]
//	2  listener   0x02 share   version, nonceL[16], YL[32], ADL
//	3  connector  0x03 proof   YC[32], ADC, box(nameC), tagC[64]
//	4  listener   0x04 accept  box(nameL), tagL[64]
//	5  connector  0x06 stored  box(outcomeC)
//	6  listener   0x06 stored  box(outcomeL)
//	-  either     0x05 reject  version, reason (one byte: 1 version, 2 code)
//
// Type byte and version of hello, share and reject stay where they are in every
// later version, and every version begins with "p2pagent-pair/"; what follows one
// that is not ours is not looked at.
//
//	ISK  = the draft's session key over sid, YL, ADL, YC, ADC
//	k(x) = HKDF-SHA-512(ISK, no salt, "p2pagent-pair/2 " + x)
//	box(x) = AES-256-GCM with a zero nonce, as each key seals one message:
//	         k("connector name"), k("listener name"), k("connector stored"), k("listener stored")
//	outcome = 0x01 stored, or 0x02 not stored and at most 80 bytes of UTF-8 that say why
//	tagC = HMAC-SHA-512(k("connector tag"), lv(sid, YL, ADL, YC, ADC, boxC))
//	tagL = HMAC-SHA-512(k("listener tag"),  lv(sid, YL, ADL, YC, ADC, boxC, tagC, boxL))
//	pairwise secret = k("pairwise secret"), 32 bytes
//
// The names travel in the boxes only, so the server does not learn them, and
// both tags cover them. The fingerprints, roles and versions travel in the
// clear in AD; the session key covers them, so a changed one fails the tag.
//
// The connector proves itself first, so who guesses at the waiting side has to
// show the guess, is noticed, and gets no tag for a wrong one. A server in the
// middle has one guess with each side, 2 in 2^30, and each ends that side's use
// of the code: a side has spent it when it has sent a tag or seen a wrong one,
// and never tries again by itself. Everything before that (junk, a message out of
// order, another version, a low-order point) is refused with an error and leaves
// the machine where it was, so it burns nothing. A second hello makes the listener
// start over with fresh values: a code whose first guest went away can still be
// used, and one machine per code is enough. There must not be two: each would give
// away a guess.
//
// After message 4 both know whom they have paired with, and each has yet to store it,
// which can fail. So the connector stores the listener first, in such a way that it can
// take that back, and says so; the listener stores the connector for good, and says so;
// then the connector's record counts for good as well. A side that could not store says
// that, and both keep nothing of this pairing; what they knew of each other before stays.
// Nobody calls himself paired before both have stored. Message 5 may be sent again, the
// same bytes, until message 6 comes.
//
// What a lost message or a crash leaves behind:
//
//	before message 5 arrived   the listener has nothing, and says so. The connector may
//	                           have an unconfirmed record.
//	message 6 lost             the listener has the connector, and has said so. The
//	                           connector has an unconfirmed record.
//
// An unconfirmed record ([Peer.Confirmed]) does no harm: it pins the key of whoever knew
// the code. It counts for good when the other side turns up in its mailbox and meets
// with its secret, in either role. If it does not, the user is told that the pairing was
// never confirmed. Beside the record of an earlier pairing with the same key it is a
// second secret to meet with ([Peer.Variants]).
//
// Version 1 had no messages 5 and 6. The two do not pair: the hello or share of the
// other version is rejected, which spends nothing, and both say which side is older.
// Peers that were paired with it stay known.
//
// # Meeting: p2pagent-meet/1
//
// Two known peers share a pairwise secret. It gives a mailbox name that means
// nothing to others ([MailboxID]) and is the key of a handshake,
// Noise_NNpsk0_25519_ChaChaPoly_SHA256, in which the connector is the initiator:
//
//	 #  from       bytes
//	 1  connector  0x01 version  Noise message 1: psk, e, payload
//	 2  listener   0x02 version  Noise message 2: e, ee, payload
//	 3  either     0x03 version  counter[8] ciphertext      (the sealed channel)
//
//	version  = 0x01
//	prologue = lv("p2pagent-meet/1", mailbox, connector fingerprint, listener fingerprint)
//
// What a payload is protected by:
//
//	message 1   Secret to both peers, but for as long as the pairwise secret is
//	            (no forward secrecy), and anyone who recorded it can send it
//	            again. The listener must not allocate, probe or spend anything
//	            because of it, beyond answering.
//	message 2   Forward secret, and fresh to the connector: it answers this very
//	            message 1. Sending it gives the listener no proof of anything.
//	channel     Forward secret both ways. The first channel message from the
//	            connector proves to the listener that message 1 was no replay:
//	            from then on [Channel.Confirmed] is true, and only then may the
//	            listener act.
//
// The counter of a channel message is big-endian, starts at 0 in each direction
// and is the AEAD nonce. A receiver takes a message whose counter is higher than
// all before: gaps are allowed, repeats and reordering are refused. The caller's
// associated data is authenticated with each message and not sent. A message of
// any kind is at most [MaxMeetingMessage] bytes, so that in base64 it fits the
// 16 KiB body of a signaling message.
//
// A listener makes one [Meeting] for each guest of a mailbox. A message that
// does not authenticate leaves a Meeting or Channel as it was.
//
// # TLS
//
// [ServerTLS] and [ClientTLS] speak TLS 1.3 and ALPN p2pagent/1 and nothing
// else, hold the other side to one fingerprint, and issue and take no session
// tickets. A client certificate that the server refuses shows at the client only
// when it reads for the first time after the handshake: that is how TLS 1.3 works.
package identity
