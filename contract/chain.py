"""The chain that an audit hangs on: every entry is linked to the one before it, inside the script that appends it.

    sha256 = SHA-256(body)                                        of the entry's own words, as UTF-8
    link   = SHA-256(link before \\n sequence \\n sha256)          hexadecimal, in ASCII; 64 zeros before the first

One chain for each tenant: a stream (`keys.audit_key`) whose entries have the fields `sequence` (from 1), `sha256`,
`link` and `body` (JSON, of `contract.audit`), and a hash (`keys.audit_head_key`) with the last `sequence` and `link`.
Whoever changes, removes, doubles or reorders an entry breaks every link after it.

Redis counts no SHA-256 for scripts, so APPEND has its own (FIPS 180-4). It hashes the 140 bytes of a link and never a
body: whoever appends says the body's digest, and who verifies checks it.
"""

import hashlib

from contract import keys

START = "0" * 64  # the link before the first entry


def digest_of(body: str) -> str:
    """SHA-256 of an entry's body, hexadecimal."""
    return hashlib.sha256(body.encode()).hexdigest()


def link_of(before: str, sequence: int, sha256: str) -> str:
    """The link of an entry, hexadecimal, from that of the entry before it."""
    return hashlib.sha256(f"{before}\n{sequence}\n{sha256}".encode("ascii")).hexdigest()


_CONSTANTS = """
0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,0xab1c5ed5,
0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,0x9bdc06a7,0xc19bf174,
0xe49b69c1,0xefbe4786,0x0fc19dc6,0x240ca1cc,0x2de92c6f,0x4a7484aa,0x5cb0a9dc,0x76f988da,
0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,0xc6e00bf3,0xd5a79147,0x06ca6351,0x14292967,
0x27b70a85,0x2e1b2138,0x4d2c6dfc,0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,
0xa2bfe8a1,0xa81a664b,0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,
0x19a4c116,0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,
0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,0xc67178f2
"""

_SHA256 = (
    "local function sha256(text)\n"
    "  local bxor, band, bnot, ror, shr, tobit = bit.bxor, bit.band, bit.bnot, bit.ror, bit.rshift, bit.tobit\n"
    f"  local k = {{{_CONSTANTS}}}\n"
    """
  local h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}
  local padded = text .. '\\128' .. string.rep('\\0', (55 - #text) % 64) .. struct.pack('>I4I4', 0, 8 * #text)
  local w = {}
  for start = 1, #padded, 64 do
    for i = 1, 16 do w[i] = struct.unpack('>I4', padded, start + 4 * (i - 1)) end
    for i = 17, 64 do
      local x, y = w[i - 15], w[i - 2]
      w[i] = tobit(w[i - 16] + bxor(ror(x, 7), ror(x, 18), shr(x, 3))
        + w[i - 7] + bxor(ror(y, 17), ror(y, 19), shr(y, 10)))
    end
    local a, b, c, d, e, f, g, last = unpack(h)
    for i = 1, 64 do
      local one = last + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g)) + k[i] + w[i]
      local two = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c))
      last, g, f, e, d, c, b, a = g, f, e, tobit(d + one), c, b, a, tobit(one + two)
    end
    for i, sum in ipairs({a, b, c, d, e, f, g, last}) do h[i] = tobit(h[i] + sum) end
  end
  for i = 1, 8 do h[i] = bit.tohex(h[i]) end
  return table.concat(h)
end
"""
)

# Part of every script that puts something on record: append(tenant, body, sha256 of the body) → {sequence, link}. Call
# it before anything else is written: then nothing can be seen that is not on record.
APPENDING = (
    _SHA256
    + f"""
local function append(tenant, body, digest)
  local stream = '{keys.audit_key("' .. tenant .. '")}'
  local head = '{keys.audit_head_key("' .. tenant .. '")}'
  local last = redis.call('HMGET', head, 'sequence', 'link')
  local sequence = string.format('%.0f', tonumber(last[1] or '0') + 1)
  local link = sha256((last[2] or '{START}') .. '\\n' .. sequence .. '\\n' .. digest)
  redis.call('XADD', stream, '*', 'sequence', sequence, 'sha256', digest, 'link', link, 'body', body)
  redis.call('HSET', head, 'sequence', sequence, 'link', link)
  redis.call('SADD', '{keys.AUDITED}', tenant)
  return {{sequence, link}}
end
"""
)

# ARGV = tenant, body, sha256 of the body. Puts one entry on record. Returns its sequence and link.
APPEND = APPENDING + "return append(ARGV[1], ARGV[2], ARGV[3])"

# ARGV = tenant, milliseconds since 1970, the time as the entry states it, and the policy that wants it, as JSON, if one
# does. Deletes every entry from before that moment and puts on record what went: the sequences and the last link, which
# stands for all of them. Returns that link; nil when nothing was that old.
CUT = (
    APPENDING
    + f"""
local stream = '{keys.audit_key("' .. ARGV[1] .. '")}'
local now = redis.call('TIME')  -- what is appended below is younger
local before = string.format('%.0f-0', math.min(tonumber(ARGV[2]), now[1] * 1000 + math.floor(now[2] / 1000)))
local last = redis.call('XREVRANGE', stream, '(' .. before, '-', 'COUNT', 1)[1]
if not last then return nil end
local function fields_of(entry)
  local fields = {{}}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  return fields
end
local first, last = fields_of(redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]), fields_of(last)
local policy = (ARGV[4] or '') ~= '' and ',"policy":' .. ARGV[4] or ''
local body = string.format('{{"kind":"deleted","tenant":%s,"at":%s,"first":%s,"last":%s,"link":"%s"%s}}',
  cjson.encode(ARGV[1]), cjson.encode(ARGV[3]), first.sequence, last.sequence, last.link, policy)
append(ARGV[1], body, sha256(body))
redis.call('XTRIM', stream, 'MINID', before)
return last.link
"""
)
