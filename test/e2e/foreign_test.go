package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Ports of peer-b's loopback that peer-a reaches through the link.
const (
	sshPort   = 2200
	iperfPort = 5201
)

// Programs that know nothing of the link use it: ssh over a forwarded port and over
// `p2pagent pipe`, curl, iperf3.
func TestForeignPrograms(t *testing.T) {
	needLab(t)
	s := stand(t, "port-restricted", "port-restricted")
	a, b := s.agents([]int{sshPort, filePort, iperfPort})
	onPath(t, a, "direct")
	t.Run("ssh", func(t *testing.T) {
		needProgram(t, "ssh", "openssh-client")
		needProgram(t, "sshd", "openssh-server")
		checkSSH(t, s)
	})
	t.Run("curl", func(t *testing.T) {
		needProgram(t, "curl", "curl")
		s := s.in(t)
		s.serveFiles(filePort)
		s.fetchWithCurl(filePort)
		s.sendWithCurl(filePort)
	})
	t.Run("iperf3", func(t *testing.T) {
		needProgram(t, "iperf3", "iperf3")
		s := s.in(t)
		server := s.exec("peer-b", "iperf3", "--server", "--bind", "127.0.0.1", "--port", fmt.Sprint(iperfPort), "--forceflush")
		server.await(t, server.stdout, "Server listening")
		s.iperf("from a to b")
		server.await(t, server.stdout, "(?s)Server listening.*Server listening") // it opens a new listener for each
		s.iperf("from b to a", "--reverse")
	})
	a.unharmed(t)
	b.unharmed(t)
}

// iperf measures for two seconds; any rate will do, standing still will not.
func (s *standing) iperf(name string, flags ...string) {
	s.t.Helper()
	out := s.must("peer-a", append([]string{"iperf3", "--client", "127.0.0.1", "--port", fmt.Sprint(iperfPort), "--time", "2", "--json"}, flags...)...)
	var report struct {
		End struct {
			Received struct {
				Bytes         int64
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
		Error string
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		s.t.Fatalf("iperf3 %s: %v\n%s", name, err, out)
	}
	if r := report.End.Received; report.Error != "" || r.Bytes == 0 {
		s.t.Errorf("iperf3 %s: %d bytes, %s", name, r.Bytes, report.Error)
	} else {
		s.t.Logf("iperf3 %s: %.0f Mbit/s", name, r.BitsPerSecond/1e6)
	}
}

// checkSSH logs in to a server in peer-b, which sends back what it is sent, and
// shows where it is.
func checkSSH(t *testing.T, s *standing) {
	s = s.in(t)
	server := s.startSSHD()
	payload := randomText(1_000_000)
	for name, how := range map[string]string{
		"forwarded port": fmt.Sprintf("Port=%d", sshPort),
		"ProxyCommand":   "ProxyCommand=p2pagent pipe b " + loopbackPort(sshPort),
	} {
		ssh := append([]string{"ssh", "-o", how}, s.sshOptions()...)
		if out := s.must("peer-a", append(ssh, "ip -4 -o addr show")...); !strings.Contains(out, "10.2.0.2/") {
			t.Errorf("%s: ssh did not come to peer-b, but to\n%s", name, out)
		}
		p := s.execWith(strings.NewReader(payload), "peer-a", append(ssh, "cat")...)
		if code := p.wait(t); code != 0 || p.stdout.String() != payload {
			t.Errorf("%s: exit code %d, %d of %d bytes came back\n%s", name, code, len(p.stdout.String()), len(payload), p.stderr)
		}
		p = s.exec("peer-a", append(ssh, "exit 42")...)
		if code := p.wait(t); code != 42 {
			t.Errorf("%s: exit code %d of a command that ends with 42\n%s", name, code, p.stderr)
		}
	}
	server.unharmed(t)
}

// sshOptions make ssh use the keys of the test and nothing of this machine.
func (s *standing) sshOptions() (args []string) {
	for _, o := range []string{
		"HostKeyAlias=peer-b", "UserKnownHostsFile=" + s.file("known_hosts"), "GlobalKnownHostsFile=/dev/null",
		"StrictHostKeyChecking=yes", "IdentityFile=" + s.file("user_key"), "IdentitiesOnly=yes", "IdentityAgent=none",
		"BatchMode=yes", "LogLevel=ERROR",
	} {
		args = append(args, "-o", o)
	}
	return append(args, "-F", "/dev/null", "root@127.0.0.1")
}

// startSSHD starts a server with keys and a configuration that end with the test.
func (s *standing) startSSHD() *process {
	s.t.Helper()
	for _, key := range []string{"host_key", "user_key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", s.file(key)).CombinedOutput(); err != nil {
			s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	host, user := s.read("host_key.pub"), s.read("user_key.pub")
	s.write("known_hosts", "peer-b "+host)
	s.write("authorized_keys", user)
	s.write("sshd_config", strings.Join([]string{
		"Port " + fmt.Sprint(sshPort), "ListenAddress 127.0.0.1", "HostKey " + s.file("host_key"),
		"AuthorizedKeysFile " + s.file("authorized_keys"), "PermitRootLogin prohibit-password", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "UsePAM no", "StrictModes no", "PidFile none", "PrintMotd no", "PrintLastLog no",
	}, "\n")+"\n")
	sshd, err := exec.LookPath("sshd") // it has to be called by its full path
	if err != nil {
		s.t.Fatal(err)
	}
	// It wants /run/sshd, which is there where the system runs one.
	p := s.exec("peer-b", "unshare", "--mount", "sh", "-c", `mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$0" -D -e -f "$1"`, sshd, s.file("sshd_config"))
	p.await(s.t, p.stderr, "Server listening")
	return p
}
