// Package agent is one link's life: meet the peer, allocate a relay, gather,
// link up over the relay, punch, move, heal. It is the only place where the
// parts meet; each part is a package of its own and knows nothing of the
// others.
//
// # A link
//
// Two known peers meet in an opaque mailbox at the signaling server
// (signaling). They seal the meeting with their pairwise secret (identity):
// the connector sends handshake message 1, the listener answers with message
// 2, and everything after is sealed with keys that neither the server nor a
// later thief of the secret can compute. Nothing is allocated or probed before
// the peer has answered our fresh nonce: for the connector that is message 2,
// for the listener the first sealed message.
//
// # Messages
//
// A message is a JSON object with a sequence number and one member:
//
//	{"seq":1,"offer":{...}}
//
//	offer       c→l  first of all: the link's id and probe key, or a request to
//	                 go on with a link that both still have (resume); the
//	                 connector's run, and which earlier runs are over
//	answer      l→c  whether it is a new link or the old one goes on; the
//	                 listener's run, and the name of its machine
//	candidates  both host and server-reflexive candidates, which of them are in
//	                 tunnels (older peers do not say), and what is known of the
//	                 NAT; a later generation replaces an earlier one
//	relay       both a relayed address at which the sender can be reached, sent
//	                 only after it has permitted the announced addresses of the
//	                 receiver; a later one replaces it
//	attempt     both c→l starts an attempt for a direct path, l→c joins it: the
//	                 attempt's ICE credentials, the sender's candidates, and
//	                 whether those in tunnels are tried too
//	opened      both the openers of the attempt are out
//	selected    both a pair is selected in the attempt
//	failed      both the attempt ended without a pair, and what was counted
//	want        l→c  please start an attempt: something changed here
//	bind        c→l  open a port for -R; asked again until it is open, or
//	                 refused for good (final)
//	bound       l→c  whether it was opened
//	targets     c→l  which of these targets of -L would not be dialed? An older
//	                 listener does not answer, and is asked three times: then the
//	                 first connection tells
//	denied      l→c  those that are not on its list; what is on it may still not
//	                 answer, and is not dialed for this
//	rival       l→c  another process with the listener's key has taken its place
//	awake       both the sender's machine slept, and for how long
//	bye         both the link ends on purpose
//
// Members and messages that a side does not know are ignored. A peer without runs
// is an older one: its links end by a goodbye or by time. A message travels
// over the session while its path is alive, else by both ways, and the second
// copy is dropped by its number: so attempts go on when the server is down, and
// a link whose paths are all dead heals through the server.
//
// # Where to begin
//
// connect.go and listen.go are the two roles, encounter.go the sealed conversation,
// link.go the loop that owns a link's state; everything in a file named for
// what it does runs on that loop or in a worker that reports to it.
package agent
