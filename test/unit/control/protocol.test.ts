/** The lines of the control socket: framing, and what is no request. */
import test from 'ava';
import fc from 'fast-check';
import {
  encodeLine,
  LineDecoder,
  parseAnswer,
  parseRequest,
  ProtocolError,
} from '../../../src/control/protocol.js';

function decodeAll(decoder: LineDecoder, chunks: Buffer[]): string[] {
  return chunks.flatMap((chunk) => [...decoder.push(chunk)]);
}

test('lines come out as they went in, however the stream is cut', (t) => {
  const line = fc.string().filter((text) => text.trim() !== '' && !text.includes('\n'));
  fc.assert(
    fc.property(fc.array(line), fc.array(fc.nat(50)), (lines, cuts) => {
      const stream = Buffer.from(lines.map((text) => `${text}\n`).join(''));
      const chunks: Buffer[] = [];
      let start = 0;
      for (const cut of cuts) {
        chunks.push(stream.subarray(start, start + cut));
        start = Math.min(stream.length, start + cut);
      }
      chunks.push(stream.subarray(start));
      const wanted = lines.map((text) => Buffer.from(text).toString());
      t.deepEqual(decodeAll(new LineDecoder(), chunks), wanted);
    }),
  );
});

test('a line of exactly the limit is taken, one byte more is refused', (t) => {
  t.is(decodeAll(new LineDecoder(8), [Buffer.from('12345678\n')])[0], '12345678');
  t.throws(() => decodeAll(new LineDecoder(8), [Buffer.from('123456789')]), {
    instanceOf: ProtocolError,
  });
});

test('a line without an end holds no more than the limit', (t) => {
  const decoder = new LineDecoder(1000);
  const feed = (): void => {
    for (let i = 0; i < 1001; i++) decodeAll(decoder, [Buffer.from('x')]);
  };
  t.throws(feed, {instanceOf: ProtocolError});
  t.true(decoder.pendingBytes <= 1000);
});

test('bytes that are not UTF-8 are refused', (t) => {
  t.throws(() => decodeAll(new LineDecoder(), [Buffer.from([0xff, 0xfe, 10])]), {
    instanceOf: ProtocolError,
  });
});

test('any text is either a request or a ProtocolError', (t) => {
  const value = fc.jsonValue().map((each) => JSON.stringify(each));
  const text = fc.oneof(fc.string(), fc.json(), value);
  fc.assert(
    fc.property(text, (line) => {
      for (const parse of [parseRequest, parseAnswer]) {
        try {
          parse(line);
        } catch (error) {
          if (!(error instanceof ProtocolError)) return false;
        }
      }
      return true;
    }),
  );
  t.pass();
});

test('requests without an id or with an unknown method are refused', (t) => {
  for (const line of [
    '{}',
    '[]',
    'null',
    '{"id":-1,"method":"ping"}',
    '{"id":1.5,"method":"ping"}',
    '{"id":1,"method":"constructor"}',
    '{"id":1,"method":["ping"]}',
    '{"method":"ping"}',
  ]) {
    t.throws(() => parseRequest(line), {instanceOf: ProtocolError}, line);
  }
});

test('what is encoded is one line, and undefined fields are null', (t) => {
  const line = encodeLine({id: 1, result: {a: undefined, b: 'x\ny'}});
  t.is(line, '{"id":1,"result":{"a":null,"b":"x\\ny"}}\n');
});
