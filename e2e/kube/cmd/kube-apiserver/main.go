// Command kube-apiserver is Kubernetes' own kube-apiserver, built from its published Go modules so that
// the end-to-end tests meet the real program.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
