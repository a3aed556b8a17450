# Runs SQL as psql -XAtq -v ON_ERROR_STOP=1 does, without a process: most of what tests ask is one short query, and to start a
# psql for it takes more time than all the rest. Each call is a session of its own, as it is there.
#
#   McClient::can_run($sql);                                  # false: psql's own commands, COPY FROM STDIN and the like
#   my $printed = McClient::run("$host/.s.PGSQL.$port", $db, $user, $sql);     # dies on the first error, in the words of psql
#   my $session = McClient::connect_to("$host/.s.PGSQL.$port", $db, $user);    # one for several: McClient::ask($session, $sql)

package McClient;

use strict;
use warnings;
use IO::Socket::UNIX;

# What may hold a semicolon that ends nothing.
my $quoted = qr/
	\bE'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "[^"]*" | (\$(?:[A-Za-z_]\w*)?\$).*?\g{-1} | --[^\n]* | \/\*.*?\*\/
/xsi;

sub can_run
{
	my ($sql) = @_;
	(my $bare = $sql) =~ s/$quoted/ /g;
	return $bare !~ /[\\'"]|\$\w*\$|\bSTDIN\b|\bLISTEN\b|\bBEGIN\s+ATOMIC\b/i;
}

# The statements of a text. Semicolons in parentheses are part of one, too (rules).
sub statements
{
	my ($sql) = @_;
	my ($depth, @statements, $statement) = (0);

	$statement = '';
	while ($sql =~ /\G(?:(?<whole>$quoted|[^;()'"\$\/E-]+|[E\$\/-])|(?<sign>[;()]))/gcsi)
	{
		if (defined $+{whole}) { $statement .= $+{whole}; next }
		$depth += $+{sign} eq '(' ? 1 : $+{sign} eq ')' ? -1 : 0;
		if ($+{sign} eq ';' && $depth == 0)
		{
			push @statements, $statement;
			$statement = '';
			next;
		}
		$statement .= $+{sign};
	}
	return grep { /\S/ && !/^(\s|--[^\n]*(\n|$))*$/ } @statements, $statement;
}

sub run
{
	my ($path, $db, $user, $sql) = @_;
	return ask(connect_to($path, $db, $user), $sql);
}

# A session that stays as long as what this returns, for ask.
sub connect_to
{
	my ($path, $db, $user) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "connection error: '$path: $!'\n";

	send_message($socket, '', pack('N', 3 << 16) . join("\0", user => $user, database => $db, application_name => 'psql', '', ''));
	receive($socket, \my $nothing);
	return $socket;
}

sub ask
{
	my ($socket, $sql) = @_;
	my $printed = '';

	utf8::encode($sql) if utf8::is_utf8($sql);
	for my $statement (statements($sql))
	{
		send_message($socket, 'Q', $statement =~ s/^\s+//r . "\0");
		my $error = receive($socket, \$printed);
		die "error running SQL: '$error' with sql '$sql'\n" if defined $error;
	}
	chomp $printed;
	return $printed;
}

sub send_message
{
	my ($socket, $type, $body) = @_;
	local $SIG{PIPE} = 'IGNORE';		# the error comes with the answer, or instead of it
	syswrite $socket, $type . pack('N', length($body) + 4) . $body;
}

sub take
{
	my ($socket, $length) = @_;
	my $taken = '';

	while (length $taken < $length)
	{
		my $n = sysread $socket, $taken, $length - length $taken, length $taken;
		next if !defined $n && $!{EINTR};
		die "connection error: 'server closed the connection unexpectedly'\n" unless $n;
	}
	return $taken;
}

# All messages up to the one that it is ready; returns the error, if any, and adds rows to what is printed.
sub receive
{
	my ($socket, $printed) = @_;
	my $error;

	while (1)
	{
		my ($type, $length) = unpack 'aN', take($socket, 5);
		my $body = take($socket, $length - 4);

		if ($type eq 'D') { $$printed .= row($body) . "\n" if unpack 'n', $body }
		elsif ($type eq 'd') { $$printed .= $body }
		elsif ($type eq 'N') { print "#### ", words($body), "\n" }
		elsif ($type eq 'Z') { return $error }
		elsif ($type eq 'R') { die "connection error: 'it asks for a password'\n" if unpack 'N', $body }
		elsif ($type eq 'G') { die "connection error: 'data cannot be sent'\n" }
		elsif ($type eq 'E')
		{
			$error = words($body);
			die "connection error: '$error'\n" if $error =~ /^FATAL/;
		}
	}
}

sub row
{
	my ($body) = @_;
	my ($n, $at, @values) = (unpack('n', $body), 2);

	for (1 .. $n)
	{
		my $length = unpack 'l>', substr $body, $at, 4;
		push @values, $length < 0 ? '' : substr $body, $at + 4, $length;
		$at += 4 + ($length < 0 ? 0 : $length);
	}
	return join '|', @values;
}

sub words
{
	my ($body) = @_;
	my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;
	return join "\n", "$field{S}:  $field{M}", map { defined $field{ $_->[0] } ? "$_->[1]:  $field{$_->[0]}" : () }
	  [ D => 'DETAIL' ], [ H => 'HINT' ], [ W => 'CONTEXT' ];
}

1;
