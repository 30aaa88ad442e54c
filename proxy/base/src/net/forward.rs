//! Implements the parts of a wrapping byte stream that pass every call on to the stream inside.

/// Writes methods of `AsyncRead` or `AsyncWrite` that pass a poll on to the stream in a field. Use it inside the `impl`
/// block of the type that has the field. A type that handles one kind of poll itself writes only that method by hand.
///
/// The form is `forward!(io: read, write, flush, shutdown)`. With `then passed` each result goes through a method of
/// the type: `fn passed<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>>`.
/// `write` covers plain and vectored writes: without vectored writes bodies are copied. `is_vectored` is for a type
/// that writes both methods itself.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward {
    ($io:ident: $($kind:ident),+) => {
        $($crate::__forward!(@$kind $io);)+
    };
    ($io:ident: $($kind:ident),+ then $then:ident) => {
        $($crate::__forward!(@$kind $io $then);)+
    };
    (@read $io:ident) => {
        fn poll_read(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            buf: &mut ::tokio::io::ReadBuf<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::tokio::io::AsyncRead::poll_read(::std::pin::Pin::new(&mut self.$io), cx, buf)
        }
    };
    (@write $io:ident $($then:ident)?) => {
        $crate::__forward!(@poll poll_write(buf: &[u8]) -> usize, $io $($then)?);
        $crate::__forward!(@poll poll_write_vectored(bufs: &[::std::io::IoSlice<'_>]) -> usize, $io $($then)?);
        $crate::__forward!(@is_vectored $io);
    };
    (@is_vectored $io:ident) => {
        fn is_write_vectored(&self) -> bool {
            ::tokio::io::AsyncWrite::is_write_vectored(&self.$io)
        }
    };
    (@flush $io:ident $($then:ident)?) => {
        $crate::__forward!(@poll poll_flush() -> (), $io $($then)?);
    };
    (@shutdown $io:ident $($then:ident)?) => {
        $crate::__forward!(@poll poll_shutdown() -> (), $io $($then)?);
    };
    (@poll $poll:ident($($what:ident: $of:ty)?) -> $done:ty, $io:ident) => {
        fn $poll(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            $($what: $of,)?
        ) -> ::std::task::Poll<::std::io::Result<$done>> {
            ::tokio::io::AsyncWrite::$poll(::std::pin::Pin::new(&mut self.$io), cx $(, $what)?)
        }
    };
    (@poll $poll:ident($($what:ident: $of:ty)?) -> $done:ty, $io:ident $then:ident) => {
        fn $poll(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            $($what: $of,)?
        ) -> ::std::task::Poll<::std::io::Result<$done>> {
            let polled = ::tokio::io::AsyncWrite::$poll(::std::pin::Pin::new(&mut self.$io), cx $(, $what)?);
            self.$then(polled, cx)
        }
    };
}

pub use crate::__forward as forward;
