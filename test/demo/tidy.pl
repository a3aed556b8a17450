# Makes what "psql -a" prints a text to read: titles, no results of functions that return nothing, short notices.

use strict;
use warnings;

$| = 1;
my ($bold, $dim, $plain) = -t STDOUT ? ("\e[1m", "\e[36m", "\e[0m") : ('', '', '');
my $gap = 1;
my $in_comment = 1;
my @held;    # the first lines of what may be the result of functions that return nothing

sub tell_line
{
	my ($line) = @_;
	my $is_comment = $line =~ /^-- /;
	my $is_title = $line =~ s/^-- # //;

	$gap = 1 if $line eq '' || $is_comment != $in_comment;
	return if $line eq '';
	print "\n" if $gap;
	($gap, $in_comment) = (0, $is_comment);
	$line = "$bold$line\n" . '=' x 100 . $plain if $is_title;
	$line = "$dim$line$plain" if $is_comment && !$is_title;
	print "$line\n";
}

# How the three lines begin: names of functions, a rule, an empty row.
my @nothing = (qr/^ *mc_\w+( *\| *mc_\w+)*$/, qr/^[-+]+$/, qr/^[ |]*$/);

while (my $line = <STDIN>)
{
	$line =~ s/\s+$//;
	$line =~ s/^psql:[^ ]*: (NOTICE: +)?//;
	push @held, $line;
	if ($line !~ $nothing[$#held])
	{
		tell_line(shift @held) while @held;
	}
	elsif (@held == @nothing)
	{
		@held = ();
	}
}
tell_line($_) for @held;
