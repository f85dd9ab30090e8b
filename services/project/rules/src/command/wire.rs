//! Conversion between the messages of RunCommand and those of runners.

use api::project as pb;

/// Returns the command of the first message.
pub fn command(first: &pb::RunCommandRequest) -> pb::CommandLease {
    pb::CommandLease { arguments: first.arguments.clone(), terminal_size: first.terminal_size }
}

/// Returns the input in the first message; `None` if there is none.
pub fn first_input(first: pb::RunCommandRequest) -> Option<pb::StreamInput> {
    let input = input(pb::RunCommandRequest { terminal_size: None, ..first });
    (input != pb::StreamInput::default()).then_some(input)
}

/// Returns a message to a command, without a number.
pub fn input(message: pb::RunCommandRequest) -> pb::StreamInput {
    pb::StreamInput {
        number: 0,
        terminal_size: message.terminal_size,
        input: message.input,
        signal: message.signal,
        end_of_input: message.end_of_input,
    }
}

/// Returns the message of a part of the output.
pub fn response(part: pb::StreamPart) -> pb::RunCommandResponse {
    pb::RunCommandResponse { output: part.output, error_output: part.error_output, exit: part.exit }
}
