-- Three things that no setting of Envoy's does. Runs outside the transcoder: it sees every answer as JSON.

function envoy_on_request(request)
  request:streamInfo():dynamicMetadata():set("stratum", "request_id", request:headers():get("x-request-id"))
end

-- The transcoder writes a google.rpc.Status: code, message, details. The fourth field is added here, so that these errors look
-- like Envoy's own (local_replies.yaml). One without details was not written by our services' interceptor, but by gRPC on a
-- fault; what it says may be anything, and is not passed on.
local function complete_error(answer)
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
  local remembered = answer:streamInfo():dynamicMetadata():get("stratum") or {}
  body:setBytes(status .. ',"request_id":"' .. remembered["request_id"] .. '"}')
end

-- A service that ends while it answers cancels what it cannot finish. Whoever still waits for it may ask again.
local function given_up(answer)
  local remembered = answer:streamInfo():dynamicMetadata():get("stratum") or {}
  answer:headers():replace(":status", "503")
  answer:headers():replace("content-type", "application/json")
  answer:body(true):setBytes('{"code":14,"message":"the service cannot answer now; repeat the call after a pause","details":['
    .. '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"UNAVAILABLE","domain":"stratum","metadata":{}}],'
    .. '"request_id":"' .. remembered["request_id"] .. '"}')
end

-- What the caller has already is not sent again. The service has compared the tags, and sent a message without anything in it.
local function spare_known(answer)
  answer:headers():replace(":status", "304")
  answer:headers():remove("content-type")
  local body = answer:body()
  if body then
    body:setBytes("")
  end
  answer:headers():remove("content-length")
end

function envoy_on_response(answer)
  local headers = answer:headers()
  local status = headers:get(":status")
  if headers:get("content-type") ~= "application/grpc" then
    headers:remove("grpc-status")
    headers:remove("grpc-message")
    headers:remove("grpc-accept-encoding")
  end
  headers:remove("x-envoy-ratelimited")
  if status == "499" then
    given_up(answer)
  elseif tonumber(status) >= 400 then
    complete_error(answer)
  elseif headers:get("x-stratum-not-modified") then
    headers:remove("x-stratum-not-modified")
    spare_known(answer)
  end
end
