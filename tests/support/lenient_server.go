// Go's net/http. Arguments: address and port.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	answer := func(writer http.ResponseWriter, request *http.Request) {
		length, err := io.Copy(io.Discard, request.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		claimed := request.Header.Get("X-Forwarded-Client-Cert")
		fmt.Fprintf(writer, "served %s %s xfcc=[%s] body=%d path=[%s]\n", request.Method, request.RequestURI, claimed, length, request.URL.Path)
	}
	panic(http.ListenAndServe(os.Args[1]+":"+os.Args[2], http.HandlerFunc(answer)))
}
