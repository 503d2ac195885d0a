package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// sandboxEnv tells the second run of a command its directory.
const sandboxEnv = "P2PAGENT_LAB_DIR"

// InSandbox reports that this process is the second run, the supervisor, and has
// not called OpenSandbox yet.
func InSandbox() bool { return os.Getpid() == 1 && os.Getenv(sandboxEnv) != "" }

// Enter runs this program once more, with the same arguments, as process 1 of its
// own namespaces, and returns its exit code. Signals that ask to end are passed on.
// If this process dies, the other dies too, and all it started.
func Enter() (int, error) {
	reg, err := openRegistry()
	if err != nil {
		return 1, err
	}
	dir, lock, err := reg.create("run-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	defer lock.Close()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	// The kernel sends the death signal when the thread ends that made the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := secondRun(dir, lock)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return 1, deniedError(err, readUserNamespaceFacts())
	}
	done := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	<-passed
	return exitCode(err)
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 1, err
	case exit.ProcessState.Exited():
		return exit.ExitCode(), nil
	}
	return 1, fmt.Errorf("the lab's supervisor: %w", err)
}

// secondRun is the command that Enter and Up start. Its file 3 is the lock that
// shows for how long the lab lives.
func secondRun(dir string, lock *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), sandboxEnv+"="+dir)
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if !mayMakeNamespaces() {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// mayMakeNamespaces reports whether this process has what root has: the right to
// make namespaces and to set up networks.
func mayMakeNamespaces() bool {
	return hasCapability(unix.CAP_SYS_ADMIN) && hasCapability(unix.CAP_NET_ADMIN)
}

func hasCapability(number uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[number/32].Effective&(1<<(number%32)) != 0
}

// Sandbox is the inside view of the namespaces that Enter made.
type Sandbox struct {
	Dir string // for the lab's files; goes away with it
	pid string // of this process, as /proc has it
}

// OpenSandbox makes the second run ready to build labs: it hides /proc of the
// outside and lets no mount out.
func OpenSandbox() (*Sandbox, error) {
	if !InSandbox() {
		return nil, errors.New("not in namespaces of our own")
	}
	unix.CloseOnExec(lockFD)
	s := &Sandbox{Dir: os.Getenv(sandboxEnv)}
	os.Unsetenv(sandboxEnv)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, deniedError(fmt.Errorf("make mounts private: %w", err), readUserNamespaceFacts())
	}
	// In a container that masks parts of /proc this is refused to users; the old
	// /proc then goes on serving, with the numbers of the outside.
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	pid, err := os.Readlink("/proc/self")
	if err != nil {
		return nil, err
	}
	s.pid = pid
	// Where a user's PATH lacks the directories of ip and iptables.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	return s, checkTools()
}

// lockFD is the number under which the second run has its lock, readyFD the pipe
// on which a lab that was left running says that it is up.
const (
	lockFD  = 3
	readyFD = 4
)
