"""What is not HTTP never reaches the app; it is answered as a problem all the same."""

from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.problem_json import problem_response


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's own, but for the answer to what its parser cannot read: a method that HTTP does not know, say."""

    def send_400_response(self, msg: str) -> None:
        """Answer, and close the connection: where the next request would begin cannot be known."""
        detail = "This cannot be read as HTTP: its method, a header or its length is wrong."
        answer = problem_response(400, "bad_request", detail, uuid4().hex, headers={"Connection": "close"})
        headers = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + headers + b"\r\n" + bytes(answer.body))
        self.transport.close()
