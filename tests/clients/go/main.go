// A custom runtime that posts its event to the Messages API with net/http, and answers the text, the version of HTTP and
// when each part of it came.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

type answer struct {
	Text    string    `json:"text"`
	Version string    `json:"version"`
	Arrived []float64 `json:"arrived"`
	Error   string    `json:"error,omitempty"`
}

type part struct {
	Delta   struct{ Text string }
	Content []struct{ Text string }
}

func main() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		next, err := http.Get(api + "next")
		if err != nil {
			os.Exit(1)
		}
		var event struct{ Prompt json.RawMessage }
		if err := json.NewDecoder(next.Body).Decode(&event); err != nil {
			os.Exit(1)
		}
		got, err := post(event.Prompt)
		if err != nil {
			got.Error = err.Error()
		}
		text, _ := json.Marshal(got)
		id := next.Header.Get("lambda-runtime-aws-request-id")
		if _, err := http.Post(api+id+"/response", "application/json", bytes.NewReader(text)); err != nil {
			os.Exit(1)
		}
	}
}

func post(prompt []byte) (got answer, err error) {
	request, err := http.NewRequest("POST", "https://api.anthropic.com/v1/messages", bytes.NewReader(prompt))
	if err != nil {
		return got, err
	}
	request.Header.Set("x-api-key", "k")
	request.Header.Set("anthropic-version", "2023-06-01")
	request.Header.Set("content-type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return got, err
	}
	defer response.Body.Close()
	got.Version = strings.TrimSuffix(response.Proto, ".0")
	if !strings.HasPrefix(response.Header.Get("content-type"), "text/event-stream") {
		whole, err := io.ReadAll(response.Body)
		if err != nil {
			return got, err
		}
		var message part
		if err := json.Unmarshal(whole, &message); err != nil || len(message.Content) == 0 {
			return got, err
		}
		got.Text = message.Content[0].Text
		return got, nil
	}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		data := strings.TrimPrefix(lines.Text(), "data: ")
		if data == lines.Text() {
			continue
		}
		got.Arrived = append(got.Arrived, float64(time.Now().UnixMilli()))
		var event part
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			return got, err
		}
		got.Text += event.Delta.Text
	}
	return got, lines.Err()
}
