-- Two things that no setting of Envoy's does. Runs outside the transcoder: it sees every answer as JSON.

function envoy_on_request(request)
  local headers = request:headers()
  local remembered = request:streamInfo():dynamicMetadata()
  remembered:set("stratum", "request_id", headers:get("x-request-id"))
  local tags = headers:get("if-none-match")
  if tags then
    remembered:set("stratum", "if_none_match", tags)
  end
end

-- The transcoder writes a google.rpc.Status: code, message, details. The fourth field is added here, so that these errors look
-- like Envoy's own (local_replies.yaml). One without details was not written by our services' interceptor, but by gRPC on a
-- fault; what it says may be anything, and is not passed on.
local function complete_error(answer, request_id)
  local body = answer:body()
  local error = body and body:getBytes(0, body:length()) or ""
  if error:sub(-2) ~= "]}" then
    return
  end
  local status = error:sub(1, -2)
  if error:sub(-3) == "[]}" then
    status = '{"code":' .. error:match('^{"code":(%d+)') .. ',"message":"internal error","details":['
      .. '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"INTERNAL","domain":"stratum","metadata":{}}]'
  end
  body:setBytes(status .. ',"request_id":"' .. request_id .. '"}')
end

-- What the caller has already is not sent again. Services send weak tags, so comparing them as text is right.
local function spare_known(answer, if_none_match)
  local tag = answer:headers():get("etag")
  if not tag or not (if_none_match == "*" or if_none_match:find(tag, 1, true)) then
    return
  end
  answer:headers():replace(":status", "304")
  local body = answer:body()
  if body then
    body:setBytes("")
  end
  answer:headers():remove("content-length")
  answer:headers():remove("content-type")
end

function envoy_on_response(answer)
  local headers = answer:headers()
  local remembered = answer:streamInfo():dynamicMetadata():get("stratum") or {}
  local status = tonumber(headers:get(":status"))
  if headers:get("content-type") ~= "application/grpc" then
    headers:remove("grpc-status")
    headers:remove("grpc-message")
    headers:remove("grpc-accept-encoding")
  end
  headers:remove("x-envoy-ratelimited")
  if status >= 400 then
    complete_error(answer, remembered["request_id"])
  elseif status == 200 and remembered["if_none_match"] then
    spare_known(answer, remembered["if_none_match"])
  end
end
