// Command kubectl is Kubernetes' own kubectl, built from its published Go modules so that the
// end-to-end tests read the cluster exactly as a user does.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	// RunNoErrOutput leaves the printing of the error to us: CheckErr knows kubectl's exit codes.
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
