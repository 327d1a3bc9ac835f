package pgserver

import "syscall"

// endWithParent has the kernel ask the child to stop when the thread that starts
// it dies: SIGINT is a fast shutdown.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }
