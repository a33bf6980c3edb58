"""The transcription endpoint, as OpenAI's own client and plain HTTP see it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from running import JFK, Running, TalkingRecognizer, to_wav

from linnet.audio import read_audio
from linnet.runtime.base import Recognizer


@pytest.fixture(scope="module")
def client(nano_server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0)


def post(server: Running, file: bytes | None, *, name: str = "a.wav", **fields: object) -> httpx.Response:
    files = {} if file is None else {"file": (name, file)}
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        data={"model": "fake", **fields},
        files=files or {"x": b""},
        timeout=30,
    )


def test_the_official_client_gets_the_text_that_the_model_gives(client: openai.OpenAI, nano: Recognizer) -> None:
    answer = client.audio.transcriptions.create(model="nano", file=JFK)
    assert answer.text == nano.transcribe(read_audio(JFK)).text != ""
    assert answer.usage is not None and answer.usage.to_dict() == {
        "type": "duration",
        "seconds": 11,
    }


@pytest.mark.parametrize("format", ["text", "srt", "vtt"])
def test_plain_formats_are_text(client: openai.OpenAI, format: str) -> None:
    text = client.audio.transcriptions.create(model="nano", file=JFK, response_format=format)
    plain = client.audio.transcriptions.create(model="nano", file=JFK).text
    assert isinstance(text, str)
    said = [line for line in text.splitlines() if "-->" not in line and not line.isdigit() and line != "WEBVTT"]
    assert " ".join(" ".join(said).split()) == plain
    assert text.startswith({"text": "", "srt": "1\n00:00:", "vtt": "WEBVTT\n"}[format])


def test_verbose_json_has_every_field_that_typed_clients_read(
    client: openai.OpenAI,
) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=JFK,
        response_format="verbose_json",
        language="en",
        temperature=0.2,
        prompt="Kennedy",
    )
    assert answer.language == "english" and 10.9 < answer.duration < 11.1
    assert answer.segments and " ".join(segment.text for segment in answer.segments) == answer.text
    for number, segment in enumerate(answer.segments):
        assert segment.id == number and 0 <= segment.start < segment.end <= 11.1
        assert segment.avg_logprob <= 0 and segment.tokens == [] and segment.no_speech_prob == 0
        assert segment.compression_ratio > 0 and segment.temperature == 0 and segment.seek >= 0
        assert 0 < segment.model_extra["confidence"] <= 1 and segment.model_extra["language"] == "en"
    assert answer.words is None


def test_streaming_gives_deltas_that_join_to_the_text(client: openai.OpenAI) -> None:
    whole = client.audio.transcriptions.create(model="nano", file=JFK).text
    events = list(client.audio.transcriptions.create(model="nano", file=JFK, stream=True))
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert "".join(event.delta for event in events[:-1]) == whole
    assert events[-1].type == "transcript.text.done" and events[-1].text == whole


def test_streaming_verbose_json_gives_segments_and_the_whole_document(server: Running, wav: bytes) -> None:
    answer = post(server, wav, stream="true", response_format="verbose_json")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["type"].rpartition(".")[2] for event in events] == [
        "delta",
        "segment",
        "done",
    ]
    assert events[1]["text"] == events[0]["delta"] and events[1]["confidence"] == 0.5
    assert events[2]["segments"][0]["start"] == events[1]["start"] and events[2]["processing_s"] > 0


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("nano", "model", "linnet")
    assert client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_an_unknown_model_is_404_and_names_the_one_there_is(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.NotFoundError, match="'nano'") as caught:
        client.audio.transcriptions.create(model="large", file=JFK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id.startswith("req_")


def test_word_times_are_refused_by_a_model_that_has_none(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no times of words"):
        client.audio.transcriptions.create(
            model="nano",
            file=JFK,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )


def test_word_times_are_refused_before_the_model_has_worked(server: Running, talking: TalkingRecognizer) -> None:
    heard = len(talking.heard)
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = post(server, to_wav(np.ones(16_000, np.float32)), **fields)
    assert answer.status_code == 400 and len(talking.heard) == heard


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "yaml"}, "response_format"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "2"}, "temperature"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        (
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            "timestamp_granularities[]",
        ),
        ({"include[]": "logprobs"}, "include"),
        ({"prompt": "x" * 8001}, "prompt"),
        ({"language": "klingon"}, "language"),
    ],
)
def test_a_wrong_field_is_400_in_openais_envelope(
    server: Running, wav: bytes, fields: dict[str, str], param: str
) -> None:
    answer = post(server, wav, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == param
    assert error["type"] == "invalid_request_error" and error["code"] and error["message"]


def test_a_wrong_language_is_refused_also_where_nobody_speaks(server: Running) -> None:
    silence = to_wav(np.zeros(16_000, np.float32))
    assert post(server, silence).json()["text"] == ""
    assert post(server, silence, language="klingon").json()["error"]["param"] == "language"


def test_a_form_without_file_is_400(server: Running) -> None:
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        data={"model": "fake"},
        files={"other": b"x"},
    )
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "file"


def test_a_body_that_is_no_form_is_400(server: Running) -> None:
    for headers in (
        {"content-type": "application/json"},
        {"content-type": "multipart/form-data"},
        {},
    ):
        answer = httpx.post(f"{server.url}/v1/audio/transcriptions", content=b"{}", headers=headers)
        assert answer.status_code == 400 and "error" in answer.json()


def test_language_and_prompt_reach_the_model(server: Running, wav: bytes, talking: TalkingRecognizer) -> None:
    talking.heard.clear()
    assert post(server, wav, language="zh", prompt="Kennedy").status_code == 200
    assert {one[2:] for one in talking.heard} == {("zh", "Kennedy")}


def test_unreadable_recordings_are_400_and_say_why(server: Running, wav: bytes) -> None:
    for content, message in (
        (b"", "empty"),
        (b"hello there", "text file"),
        (wav[: len(wav) // 2], "cut short"),
    ):
        answer = post(server, content, name="talk.wav")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (
            400,
            "invalid_audio",
            "file",
        )
        assert message in error["message"] and "talk.wav" in error["message"]


def test_messages_name_no_path_of_the_server(server: Running) -> None:
    error = post(server, b"hello", name="../../etc/passwd\r\nX: y").json()["error"]
    assert "/" not in error["message"].split("Readable")[0] and "\n" not in error["message"]
    assert str(Path.home()) not in error["message"]
