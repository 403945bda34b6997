// A custom runtime: works hard enough for the scheduler and the collector to run, and posts its event.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
)

func main() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		next, err := http.Get(api + "next")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		event, _ := io.ReadAll(next.Body)
		answer, err := act(event)
		if err != nil {
			answer = []byte(fmt.Sprintf("%q", err.Error()))
		}
		id := next.Header.Get("lambda-runtime-aws-request-id")
		posted, err := http.Post(api+id+"/response", "application/json", bytes.NewReader(answer))
		if err != nil {
			os.Exit(1)
		}
		posted.Body.Close()
	}
}

func act(event []byte) ([]byte, error) {
	var group sync.WaitGroup
	for n := 0; n < 1000; n++ {
		group.Add(1)
		go func() {
			defer group.Done()
			block := make([]byte, 64<<10)
			block[len(block)-1] = 1
			runtime.Gosched()
		}()
	}
	group.Wait()
	runtime.GC()
	if err := exec.Command("/bin/sh", "-c", "exit 3").Run(); err == nil || err.Error() != "exit status 3" {
		return nil, fmt.Errorf("child: %v", err)
	}
	if err := os.WriteFile("/tmp/written", event, 0o600); err != nil {
		return nil, err
	}
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) != 1 {
		return nil, fmt.Errorf("interfaces: %v %v", interfaces, err)
	}
	request, err := http.NewRequest("POST", "https://api.anthropic.com/v1/messages", strings.NewReader(string(event)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("x-api-key", "k")
	request.Header.Set("anthropic-version", "2023-06-01")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
